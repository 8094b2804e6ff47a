"""Two front ends and two workers on PostgreSQL and S3. At random points one of them is killed, the database restarts as
after a loss of power, or the network to it or to the object store is cut; of the object store's replies one in twenty
is an error all the time.

What was acknowledged may not be lost, learned twice, or told to another channel.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from core.types import Document
from storage.keys import Keys
from storage.objects import Objects
from storage.postgres import PostgresIndex
from tests import objects, postgres
from tests.network import Cut, Network
from tests.torture import Figure, Plan, Say, at_most, every, none
from tests.torture.kill import Upload, note
from tests.torture.papers import paper
from tests.torture.world import World

TIMES = 200
CHANNELS = 5
SPAN = 4.0  # seconds between two points at most
NETWORKS = ["network to the database", "network to the store"]
PROCESSES = ["front end 1", "front end 2", "worker 1", "worker 2"]
VICTIMS = [*PROCESSES, "worker 1", "worker 2", "database", *NETWORKS]
CUT = 10.0  # seconds for which the network is cut at most
IN_TIME = 180.0  # seconds from the last point until every end is told; a dead worker's job waits for 20
PATIENCE = 600.0  # seconds in which nothing is told
WAITING = 20  # documents on their way; then none is handed in
REFUSED = 20  # one request in so many
DURABLE = "-c fsync=off"  # no power is cut here, but a commit is on the disk when the database says so


@dataclass
class Servers:
    plan: Plan
    database: postgres.Server
    networks: dict[str, Network]
    chance: random.Random
    worlds: dict[str, World] = field(default_factory=dict)
    uploads: dict[int, Upload] = field(default_factory=dict)
    asked: int = 0
    answered: int = 0
    crossed: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # questions, by the sentence
    points: Counter[str] = field(default_factory=Counter)
    given_up: int = 0  # starts
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self, name: str) -> None:
        role = "worker" if name.startswith("worker") else name
        world = World(self.plan.folder / "data", self.plan.nursery, role=role, log=self.plan.folder / "log")
        self.worlds[name] = await world.__aenter__()

    async def stop(self, name: str) -> None:
        """kill -9."""
        world = self.worlds.pop(name)
        await world.__aexit__(None, None, None)
        note(world, self.uploads)

    async def hurt(self, name: str) -> None:
        if name in NETWORKS:
            how = self.chance.choice([*Cut])
            self.points[f"{name} {how}"] += 1
            await self.networks[name].cut(how, self.chance.uniform(0, CUT))
            return
        self.points[name.rstrip(" 12")] += 1
        if name == "database":
            await asyncio.to_thread(self.database.stop, "immediate")
            await asyncio.to_thread(self.database.start)
            return
        async with self.changing:
            await self.stop(name)
            await self.start(name)

    async def supervise(self) -> None:
        """Start again what has ended by itself, as Docker does: a start that loses the database is given up."""
        while True:
            await asyncio.sleep(1.0)
            async with self.changing:
                for name in [name for name, world in self.worlds.items() if world.has_ended]:
                    self.given_up += 1
                    await self.stop(name)
                    await self.start(name)

    def front_end(self) -> World:
        return self.chance.choice([world for name, world in sorted(self.worlds.items()) if name.startswith("front")])

    def hand_in(self) -> None:
        number = len(self.uploads) + 1
        upload = Upload(number, f"channel{number % CHANNELS}", paper(f"paper-{number}.pdf", self.chance))
        self.uploads[number] = upload
        file = self.plan.folder / upload.paper.name
        file.write_bytes(upload.paper.data)
        files = [{"name": file.name, "path": str(file)}]
        self.front_end().send(number, "hear", channel=upload.channel, files=files)

    async def ask(self, upload: Upload, channel: str) -> str:
        """The answer; "" when the front end did not live to give it. Raises: TimeoutError."""
        world, self.asked = self.front_end(), self.asked + 1
        number = 10**6 + self.asked
        world.send(number, "ask", channel=channel, arguments={"question": upload.paper.question})
        try:
            answer = await world.answer(number, PATIENCE)
        except EOFError:
            return ""
        self.answered += 1
        text = answer["text"]
        if answer["tone"] == "bad":
            self.refused[text] += 1
        foreign = {one.paper.secret for one in self.uploads.values() if one.channel != channel}
        self.crossed += [f"{channel} was told {secret}" for secret in foreign if secret in text]
        return text

    def note(self) -> None:
        for world in self.worlds.values():
            note(world, self.uploads)

    def open(self) -> list[Upload]:
        self.note()
        return [upload for upload in self.uploads.values() if upload.received and not upload.ends]


async def run(plan: Plan, say: Say) -> list[Figure]:
    times, before = plan.times or TIMES, dict(os.environ)
    async with AsyncExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        database = stack.enter_context(postgres.running(DURABLE))
        variables = stack.enter_context(objects.running())
        store = stack.enter_context(objects.unreliable(variables["AWS_ENDPOINT_URL"], every=REFUSED))
        to_database = await stack.enter_async_context(Network(database.socket))
        to_store = await stack.enter_async_context(Network(("127.0.0.1", int(store.rpartition(":")[2]))))
        networks = dict(zip(NETWORKS, (to_database, to_store), strict=True))
        os.environ |= variables | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{to_store.port}",
            "ENGRAM_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{to_database.port}/postgres",
            "ENGRAM_OBJECTS": f"s3://{objects.BUCKET}/engram",
        }
        servers = Servers(plan, database, networks, random.Random(plan.seed))
        for name in PROCESSES:
            await servers.start(name)
        supervising = asyncio.create_task(servers.supervise())
        try:
            return await torture(servers, times, say)
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
            for name in [*servers.worlds]:
                await servers.stop(name)


async def torture(servers: Servers, times: int, say: Say) -> list[Figure]:
    for world in servers.worlds.values():
        await world.ready()
    asking = []
    for number in range(1, times + 1):
        if len(servers.open()) < WAITING:
            servers.hand_in()
        if known := [upload for upload in servers.uploads.values() if upload.learned]:
            channel = f"channel{servers.chance.randrange(CHANNELS)}"
            asking.append(asyncio.create_task(servers.ask(servers.chance.choice(known), channel)))
        await asyncio.sleep(servers.chance.uniform(0, SPAN))
        await servers.hurt(servers.chance.choice(VICTIMS))
        servers.note()
        if number % 10 == 0:
            say(f"{number}/{times}: {dict(servers.points)}; {len(servers.open())} documents are on their way")
    began = moved = time.monotonic()
    waiting = servers.open()
    while waiting and time.monotonic() - moved < PATIENCE:
        await asyncio.sleep(0.5)
        before, waiting = waiting, servers.open()
        moved = time.monotonic() if len(waiting) < len(before) else moved
    settled = time.monotonic() - began
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    learned = [upload for upload in servers.uploads.values() if upload.learned]
    right = [upload for upload in learned if upload.paper.secret in await servers.ask(upload, upload.channel)]
    for upload in learned:
        await servers.ask(upload, f"channel{(upload.number + 1) % CHANNELS}")
    documents, whole = await stored(servers)
    names = Counter(document.name for document in documents)
    received = [upload for upload in servers.uploads.values() if upload.received]
    kept = [upload for upload in received if upload.learned]
    for line in [f"never told: {upload.paper.name}" for upload in waiting] + servers.crossed:
        say(line)
    return [
        Figure("points, by what was hurt", ", ".join(f"{n} {what}" for what, n in sorted(servers.points.items()))),
        every("acknowledged documents whose end was told", len(received) - len(waiting), len(received)),
        at_most("from the last point to the last of these", settled, IN_TIME),
        # One that was interrupted three times is given up, and told so.
        Figure("documents learned", f"{len(kept)}/{len(received)}", "> half", 2 * len(kept) > len(received)),
        Figure("what was said of the others", refusals(received)),
        none("documents told as learned that are gone", sum(not names[upload.paper.name] for upload in learned)),
        none("documents with two versions", sum(names.values()) - len(names)),
        every("documents whose weights are whole", whole, len(documents)),
        every("learned documents that answer", len(right), len(learned)),
        none("answers with another channel's secret", len(servers.crossed)),
        none("questions that were never answered", sum(isinstance(one, TimeoutError) for one in outcomes)),
        Figure("questions answered, of those asked", f"{servers.answered}/{servers.asked}"),
        Figure("of these refused in a sentence", f"{servers.refused.total()} {dict(servers.refused)}"),
        Figure("starts that were given up, and made again", servers.given_up),
        Figure("ends told more than once", sum(len(upload.ends) > 1 for upload in received)),
    ]


def refusals(uploads: list[Upload]) -> str:
    """Of documents that were not learned: how often each sentence was said."""
    said = Counter(text for upload in uploads if not upload.learned for text in upload.refusals)
    return "; ".join(f"{count} {text!r}" for text, count in said.most_common())


async def stored(servers: Servers) -> tuple[list[Document], int]:
    """What the database knows, and of how many documents the store has all weights."""
    keys = Keys(servers.plan.folder / "data" / "keys")
    async with PostgresIndex(servers.database.url(), keys) as index:
        weights = Objects(os.environ["ENGRAM_OBJECTS"], index.id, keys)
        documents = [one for channel in await index.channels("") for one in await index.documents(channel)]
        whole = [await asyncio.to_thread(weights.load_all, one.weights, one.channel) for one in documents]
    return documents, sum(map(bool, whole))
