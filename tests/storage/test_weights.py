"""Weights, as files and in an object store: what goes in comes out, or is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.errors import LearningFailed, WeightsDamaged, WrongBaseModel
from core.ports import Weights as Port
from core.types import WeightsRecord
from storage.objects import Objects
from storage.weights import Weights
from tests.storage.samples import make_learned


def save(weights: Port, id: str = "d1", channel: str = "here", *values: float, base: str = "base") -> WeightsRecord:
    return weights.save(id, channel, make_learned(*values or (1.0, 2.0)), base=base, learner="lora")


def load(weights: Port, record: WeightsRecord, channel: str = "here", section: int = 0, base: str = "base") -> dict:
    return {name: tensor.item() for name, tensor in weights.load(record, channel, base=base, section=section).items()}


@pytest.mark.parametrize("kind", [Weights, Objects])
def test_the_weights_have_every_method_of_the_port(kind: type) -> None:
    assert [name for name in vars(Port) if not name.startswith("_") and not hasattr(kind, name)] == []


def test_only_the_asked_section_comes_back(weights: Port) -> None:
    learned = make_learned(1.0, sections=(0, 1, 10))
    learned.tensors["10/up.0"].fill_(10.0)
    record = weights.save("d1", "here", learned, base="base", learner="lora")
    assert [load(weights, record, section=section)["up.0"] for section in (0, 1, 10)] == [1.0, 1.0, 10.0]
    with pytest.raises(WeightsDamaged):
        load(weights, record, section=2)


def test_views_and_shared_tensors_may_be_saved(weights: Port) -> None:
    square = torch.arange(4.0).reshape(2, 2).requires_grad_()
    learned = replace(make_learned(sections=(0,)), tensors={"0/a": square.T, "0/b": square, "0/c": square})
    record = weights.save("d1", "here", learned, base="base", learner="lora")
    loaded = weights.load(record, "here", base="base", section=0)
    assert loaded["a"].tolist() == [[0, 2], [1, 3]] and loaded["b"].tolist() == loaded["c"].tolist() == [[0, 1], [2, 3]]


def test_a_section_without_weights_is_not_saved(weights: Port) -> None:
    with pytest.raises(LearningFailed):
        weights.save("d1", "here", replace(make_learned(1.0), sections=(0, 1, 2)), base="base", learner="lora")


def test_a_record_that_points_at_another_channels_file_is_refused(weights: Port) -> None:
    theirs = save(weights, "d2", "there")
    with pytest.raises(WeightsDamaged):
        load(weights, theirs, "here")
    with pytest.raises(WeightsDamaged):
        load(weights, replace(theirs, document_id="d1"), "here")
    with pytest.raises(WeightsDamaged):
        load(weights, replace(theirs, path="weights/../../d2.safetensors"), "there")


def test_weights_of_another_base_model_are_refused(weights: Port) -> None:
    record = save(weights, base="old")
    with pytest.raises(WrongBaseModel):
        load(weights, record, base="new")
    with pytest.raises(WeightsDamaged):  # the record was changed to fit
        load(weights, replace(record, base="new"), base="new")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_what_is_no_number_is_not_saved(weights: Port, value: float) -> None:
    with pytest.raises(LearningFailed):
        save(weights, "d1", "here", 1.0, value)


def test_what_was_deleted_is_gone_and_may_be_deleted_again(weights: Port) -> None:
    record, kept = save(weights), save(weights, "d2")
    weights.delete(record.document_id)
    weights.delete(record.document_id)
    with pytest.raises(WeightsDamaged):
        load(weights, record)
    assert load(weights, kept)
