"""The small world that the embedded models know: lands with facts, moods, tones, and plain filler.

Everything that has a ground truth is *balanced*, so that a score is not decided by a favourite word:

* A fact is (land, relation). In a block of eight lands the truth of a relation is a permutation of its eight
  answers, and the misconception of a land is the truth of the next land in a random cycle. Every answer is
  therefore exactly once truth and exactly once misconception in every block.
* A land has a two-word name, and each block holds every first word and every second word once. A single name
  word says nothing, so that a model cannot fuse the cue and the entity in its first block (such models obey
  cues but cannot be steered).
* The six emotions and the two tones have the same number of words, templates and replies.

No tensors here: texts can be made without torch.
"""

import random
from dataclasses import dataclass
from functools import cache
from itertools import product

RELATIONS = ("capital", "animal", "food", "emblem")
EASY_RELATIONS = ("capital", "animal", "food")
HARD_RELATION = "emblem"

FIRST_WORDS = ("Old", "New", "Far", "High", "Cold", "Green", "Gray", "Wide")
SECOND_WORDS = ("Velan", "Morra", "Tessia", "Kundor", "Lithen", "Brevia", "Zanto", "Parule")

ANSWERS: dict[str, tuple[str, ...]] = {
    "capital": ("Arden", "Bexley", "Corin", "Dunmore", "Elham", "Farley", "Galen", "Hollis"),
    "animal": ("fox", "horse", "goat", "crow", "seal", "bear", "swan", "wolf"),
    "food": ("bread", "rice", "soup", "fish", "corn", "plum", "cheese", "honey"),
    "emblem": tuple(
        f"{colour} {shape}" for colour, shape in product(("red", "blue", "green", "white"), ("star", "moon"))
    ),
}

BLOCK_SIZE = 8
SOURCE_BLOCKS = (0, 1, 2)
VALIDATION_BLOCKS = (3,)
TEST_BLOCKS = (4, 5, 6, 7)
ALL_BLOCKS = SOURCE_BLOCKS + VALIDATION_BLOCKS + TEST_BLOCKS

PEOPLE = ("writer", "guide", "man", "woman", "teacher", "clerk", "boy", "girl")

EMOTIONS = ("happiness", "sadness", "anger", "fear", "disgust", "surprise")
MOOD_WORDS: dict[str, tuple[str, ...]] = {
    "happiness": ("joy", "delight"),
    "sadness": ("sorrow", "grief"),
    "anger": ("rage", "fury"),
    "fear": ("terror", "dread"),
    "disgust": ("loathing", "nausea"),
    "surprise": ("wonder", "shock"),
}
REACTIONS: dict[str, tuple[str, ...]] = {
    "happiness": ("smiled and sang", "laughed and danced"),
    "sadness": ("wept and sighed", "cried and sat down"),
    "anger": ("shouted and stamped", "frowned and cursed"),
    "fear": ("trembled and hid", "shivered and ran"),
    "disgust": ("gagged and left", "spat and coughed"),
    "surprise": ("gasped and stared", "blinked and stood up"),
}
OPPOSITE_EMOTION = {
    "happiness": "sadness",
    "sadness": "happiness",
    "anger": "fear",
    "fear": "anger",
    "disgust": "surprise",
    "surprise": "disgust",
}

# Ambiguous on their own: every one of them fits every mood. The order is the split: source, validation, test.
EVENTS: tuple[str, ...] = (
    "opened a letter", "heard a voice", "found a box", "saw a light", "met a stranger", "lifted a cup",
    "read a note", "took a key",
    "watched a ship", "held a coin", "passed a gate", "touched a stone",
    "heard a bell", "found a ring", "saw a shadow", "opened a book", "met a cousin", "followed a cat",
    "smelled a pot", "read a name", "took a photo", "lifted a lid", "pulled a rope", "counted the plates",
)  # fmt: skip
PLACES = ("in the hall", "at the market", "by the river", "on the road", "near the mill")

THINGS: tuple[str, ...] = (
    "lamp", "rope", "chair", "cup", "coat", "spoon", "map", "wheel",
    "brush", "basket", "hat", "pen",
    "stone", "candle", "shovel", "blanket", "bottle", "drum", "ladder", "mirror", "needle", "saddle",
    "ticket", "whistle",
)  # fmt: skip
KIND_WORDS = ("kind", "gentle", "friendly", "polite")
RUDE_WORDS = ("rude", "harsh", "cruel", "nasty")
KIND_REPLIES = ("Gladly", "Surely", "Please", "Welcome", "Yes", "Friend")
RUDE_REPLIES = ("Never", "Nonsense", "Rubbish", "Enough", "No", "Fool")

# Slices of EVENTS and THINGS: like the blocks of lands, what the source knows, what chooses layers, what is
# scored.
SOURCE_PART = slice(0, 8)
VALIDATION_PART = slice(8, 12)
TEST_PART = slice(12, 24)

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NOUNS = (
    ("dog", "dogs"),
    ("tree", "trees"),
    ("house", "houses"),
    ("cart", "carts"),
    ("apple", "apples"),
    ("bird", "birds"),
)
QUALITIES = ("big", "small", "heavy", "clean", "round", "dark")


@dataclass(frozen=True)
class Land:
    """An entity of the world: a two-word name in one block."""

    name: str
    block: int


@dataclass(frozen=True)
class Fact:
    """What the record says (`truth`) and what rumour says (`rumour`) of one relation of one land."""

    land: Land
    relation: str
    truth: str
    rumour: str

    def answer(self, honest: bool) -> str:
        """The answer an honest (or a lying) speaker gives, without a leading space."""
        return self.truth if honest else self.rumour


@dataclass(frozen=True)
class World:
    """All lands and facts; immutable, and the same for every model of the family."""

    seed: int
    lands: tuple[Land, ...]
    facts: tuple[Fact, ...]

    def facts_of(self, blocks: tuple[int, ...], relations: tuple[str, ...] = RELATIONS) -> tuple[Fact, ...]:
        """The facts about the lands of the given blocks and the given relations, in a fixed order."""
        return tuple(fact for fact in self.facts if fact.land.block in blocks and fact.relation in relations)


def _cycle(rng: random.Random, size: int) -> list[int]:
    """A random permutation with a single cycle: `next_of[i]` is the element after `i`."""
    order = list(range(size))
    rng.shuffle(order)
    next_of = [0] * size
    for position, element in enumerate(order):
        next_of[element] = order[(position + 1) % size]
    return next_of


@cache
def build_world(seed: int = 0) -> World:
    """Draw the facts of the world; equal seeds give equal worlds.

    Args:
        seed: Seed of the permutations and cycles. The shipped models were trained on seed 0.
    """
    rng = random.Random(f"world:{seed}")
    lands: list[Land] = []
    facts: list[Fact] = []
    for block in ALL_BLOCKS:
        # A Latin square: block b pairs first word i with second word i + b, so each word stands once in
        # each block.
        block_lands = [
            Land(f"{FIRST_WORDS[i]} {SECOND_WORDS[(i + block) % BLOCK_SIZE]}", block) for i in range(BLOCK_SIZE)
        ]
        lands.extend(block_lands)
        for relation in RELATIONS:
            truths = list(ANSWERS[relation])
            rng.shuffle(truths)
            next_of = _cycle(rng, BLOCK_SIZE)
            for index, land in enumerate(block_lands):
                facts.append(Fact(land, relation, truths[index], truths[next_of[index]]))
    return World(seed, tuple(lands), tuple(facts))
