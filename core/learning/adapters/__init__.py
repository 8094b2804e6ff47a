"""Learners that train an adapter for each document with many small steps: ENGRAM_LEARNER=lora.

adapter       the learner, for any adapter
lora          low-rank adapters, by peft
objectives    what they are trained on
study         questions and texts that the model writes about a document; ENGRAM_STUDY=true, and the self-check
remote        a larger model that writes them
"""
