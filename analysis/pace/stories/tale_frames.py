"""Concepts of children's stories with sentences of our own: deeds and feelings one by one, things by common frames.

Every sentence ends with a full stop and the residual is read there: the last token is the same for all concepts, so
that no atom is just the embedding of a word.
"""

FEELINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "sadness": {
        "being sad": (
            "{name} felt very sad.",
            "{name} was sad all day.",
            "{friend} saw that {name} was so sad.",
            "{name} had a sad face and did not want to play.",
            "It made {name} feel sad and blue.",
        ),
        "crying": (
            "{name} started to cry.",
            "{name} cried and cried.",
            "There were tears in the eyes of {name}.",
            "{name} sat on the floor and cried for mom.",
            "Big tears ran down the face of {name}.",
        ),
        "being lonely": (
            "{name} was all alone.",
            "{name} had no friends to play with.",
            "{name} felt lonely in the big house.",
            "Nobody came, and {name} sat alone.",
            "{name} missed {friend} so much.",
        ),
        "losing something": (
            "{name} lost the little bear and could not find it.",
            "The toy of {name} was gone forever.",
            "{name} looked and looked, but the ring was lost.",
            "The kite flew away and never came back to {name}.",
            "{name} could not find the lost cat.",
        ),
        "being hurt": (
            "{name} fell down and hurt a knee.",
            "The hand of {name} hurt so much.",
            "{name} fell off the bike and it hurt.",
            "{name} got a big cut, and it was bad.",
            "{name} hit the wall and had pain in the head.",
        ),
        "being sick": (
            "{name} was sick and had to stay in bed.",
            "The old dog of {name} was very ill.",
            "{name} felt bad and weak.",
            "{friend} was sick, and {name} could not help.",
            "The little bird got sick and died.",
        ),
    },
    "happiness": {
        "being happy": (
            "{name} felt very happy.",
            "{name} was happy all day.",
            "{friend} saw that {name} was so happy.",
            "{name} had a happy face and wanted to play.",
            "It made {name} feel happy and warm.",
        ),
        "laughing": (
            "{name} started to laugh.",
            "{name} laughed and laughed.",
            "{name} and {friend} giggled at the funny hat.",
            "{name} told a joke and all of them laughed.",
            "There was a big smile on the face of {name}.",
        ),
        "having fun": (
            "{name} and {friend} had so much fun.",
            "It was the best day ever for {name}.",
            "They played and had a lot of fun.",
            "{name} clapped and danced with joy.",
            "{name} loved to play this fun game.",
        ),
        "getting a gift": (
            "{name} got a nice gift.",
            "{name} opened the box and found a surprise.",
            "It was the birthday of {name}, and there were many presents.",
            "{friend} gave a pretty gift to {name}.",
            "{name} got a big prize.",
        ),
        "being proud": (
            "{name} was very proud.",
            "{name} did it, and mom was proud.",
            "{name} won the race.",
            "{name} made it without help and felt proud.",
            "All of them cheered for {name}.",
        ),
    },
    "fear": {
        "being scared": (
            "{name} was very scared.",
            "{name} felt afraid and did not move.",
            "{name} was so scared of the noise.",
            "It was scary, and {name} wanted to go home.",
            "{name} began to shake with fear.",
        ),
        "a monster": (
            "{name} saw a big monster.",
            "A monster with sharp teeth came to {name}.",
            "{name} thought there was a ghost under the bed.",
            "The big bad wolf looked at {name}.",
            "A scary monster lived in the cave.",
        ),
        "hiding": (
            "{name} ran away and hid.",
            "{name} hid under the bed.",
            "{name} hid behind a tree and was quiet.",
            "{name} screamed and ran to mom.",
            "{name} closed both eyes and hid in the box.",
        ),
        "the dark": (
            "It was dark, and {name} could not see.",
            "{name} did not like the dark room.",
            "The light went out and it was dark.",
            "{name} was afraid of the dark night.",
            "{name} heard a loud sound in the dark.",
        ),
    },
    "anger": {
        "being angry": (
            "{name} was very angry.",
            "{name} got mad.",
            "{friend} made {name} so angry.",
            "{name} had a red and angry face.",
            "{name} felt upset and mad.",
        ),
        "shouting": (
            "{name} shouted at {friend}.",
            "{name} yelled very loud.",
            "{name} began to yell and scream.",
            "{name} shouted in a loud and angry voice.",
            "{friend} heard {name} shout.",
        ),
        "stamping": (
            "{name} stamped both feet on the floor.",
            "{name} threw the toy at the wall.",
            "{name} kicked the door.",
            "{name} slammed the door and went away.",
            "{name} threw everything on the ground.",
        ),
    },
    "kindness": {
        "helping": (
            "{name} helped {friend}.",
            "{name} came to help the little bird.",
            "{name} helped mom to clean the house.",
            "{name} was a good helper.",
            "{name} saw that {friend} needed help and came.",
        ),
        "sharing": (
            "{name} shared the cookies with {friend}.",
            "{name} liked to share the toys.",
            "{name} and {friend} shared and took turns.",
            "{name} gave half of the apple to {friend}.",
            "They shared the food with all of the friends.",
        ),
        "hugging": (
            "{name} gave {friend} a big hug.",
            "{name} hugged {friend}.",
            "{name} and {friend} hugged and kissed.",
            "{name} held the hand of {friend}.",
            "Mom gave {name} a warm hug.",
        ),
        "being kind": (
            "{name} was very kind.",
            "{name} was nice to everyone.",
            "{name} was gentle with the little cat.",
            "{name} said kind words to {friend}.",
            "{name} was a good and kind friend.",
        ),
    },
    "unkindness": {
        "being mean": (
            "{name} was very mean.",
            "{name} was not nice to {friend}.",
            "{name} said mean words to {friend}.",
            "{name} was rude and bad.",
            "{name} was a mean bully.",
        ),
        "teasing": (
            "{name} laughed at {friend}.",
            "{name} made fun of {friend}.",
            "{name} teased the small boy.",
            "{name} called {friend} a bad name.",
            "{name} pointed at {friend} and laughed.",
        ),
        "hitting": (
            "{name} hit {friend}.",
            "{name} pushed {friend} to the ground.",
            "{name} kicked the little dog.",
            "{name} and {friend} began to fight.",
            "{name} pulled the hair of {friend}.",
        ),
        "grabbing": (
            "{name} took the toy away from {friend}.",
            "{name} grabbed the ball and ran away.",
            "{name} did not want to share.",
            "{name} stole the cookie of {friend}.",
            "{name} was selfish and kept it all.",
        ),
        "leaving out": (
            "{name} did not let {friend} play.",
            "{name} told {friend} to go away.",
            "{name} did not want to be a friend of {friend}.",
            "{name} would not talk to {friend}.",
            "{name} said no and left {friend} alone.",
        ),
    },
    "lying": {
        "telling a lie": (
            "{name} told a lie.",
            "{name} lied to mom.",
            "{name} did not tell the truth.",
            "What {name} said was not true.",
            "{name} made up a story that was a lie.",
        ),
        "denying": (
            "{name} said that it was not true.",
            "{name} broke it but said no.",
            "{name} said that nothing happened.",
            "{name} ate the cake but said no.",
            "{name} did it and did not say so.",
        ),
        "blaming": (
            "{name} said that the cat did it.",
            "{name} broke the cup and said it was {friend}.",
            "{name} blamed {friend} for the mess.",
            "{name} pointed at the dog and said it was the dog.",
            "{name} told mom that {friend} was bad.",
        ),
        "tricking": (
            "{name} played a trick on {friend}.",
            "{name} tricked {friend} and took the food.",
            "The sly fox had a trick for {name}.",
            "{name} cheated in the game.",
            "{name} pretended to be hurt.",
        ),
    },
    "honesty": {
        "telling the truth": (
            "{name} told the truth.",
            "{name} was honest with mom.",
            "What {name} said was true.",
            "{name} decided to tell the truth.",
            "{name} was an honest child.",
        ),
        "saying sorry": (
            "{name} said sorry.",
            "{name} was sorry for the mess.",
            "{name} told {friend} how sorry it was.",
            "{name} asked {friend} to forgive.",
            "{name} said sorry to mom and dad.",
        ),
        "owning up": (
            "{name} told mom who broke it.",
            "{name} said yes, I did it.",
            "{name} told dad about the broken cup.",
            "{name} went to mom and told what happened.",
            "{name} gave the lost ring back.",
        ),
        "a promise": (
            "{name} made a promise to {friend}.",
            "{name} kept the promise.",
            "{name} promised to come back.",
            "{name} promised mom to be good.",
            "{friend} could trust {name}.",
        ),
    },
    "actions": {
        "running": (
            "{name} ran very fast.",
            "{name} and {friend} ran around.",
            "{name} liked to run.",
            "{name} was running up the hill.",
            "{name} ran and ran.",
        ),
        "jumping": (
            "{name} jumped up and down.",
            "{name} liked to jump.",
            "{name} and {friend} jumped over it.",
            "{name} was jumping very high.",
            "{name} jumped in the water.",
        ),
        "sleeping": (
            "{name} went to sleep.",
            "{name} was tired and slept.",
            "{name} took a nap in the bed.",
            "{name} was sleeping.",
            "{name} closed both eyes and fell asleep.",
        ),
        "singing": (
            "{name} sang a song.",
            "{name} liked to sing.",
            "{name} and {friend} sang together.",
            "{name} was singing.",
            "{name} heard the music and began to sing.",
        ),
        "eating": (
            "{name} ate all of it.",
            "{name} was hungry and ate a lot.",
            "{name} liked to eat.",
            "{name} and {friend} ate together.",
            "{name} took a big bite.",
        ),
    },
}
"""By topic and concept, sentences with places for a name and a friend."""

THINGS: dict[str, tuple[str, ...]] = {
    "animals": ("dog", "cat", "bird", "fish", "rabbit"),
    "foods": ("cake", "apple", "soup", "bread", "banana"),
    "toys": ("ball", "doll", "kite", "toy car", "teddy bear"),
    "places": ("park", "beach", "forest", "school", "garden"),
    "weather": ("rain", "snow", "sun", "wind", "storm"),
    "family": ("mommy", "daddy", "grandma", "brother", "sister"),
    "colours": ("red one", "blue one", "green one", "yellow one", "pink one"),
}
"""By topic, nouns that the same frames fit, so that the frames tell nothing about the topic."""

THING_FRAMES = (
    "{name} saw the {thing}.",
    "{name} loved the {thing}.",
    "{name} looked at the {thing} with {friend}.",
    "{name} asked mom about the {thing}.",
    "{name} thought about the {thing} again.",
)

OPENINGS = (
    "",
    "One day, {name} was at home.",
    "Once upon a time, there was a child named {name}.",
    "{name} and {friend} went outside.",
    "In the morning, {name} woke up.",
    "{name} was with {friend}.",
    "It was a new day.",
    "{name} lived in a small town.",
)
"""What may stand before a sentence; none of it has a concept."""

NAMES = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Sue", "Tim", "Lucy", "Jack", "Amy")
