# ruff: noqa: SIM905 - a sentence stays on one line, a list of words is one string
"""Words of the story grammar: who, where, what."""

from __future__ import annotations

GIRLS = "Ruby Lily Mia Daisy Nora Lucy Ella Rosie Hazel Molly Zoe Penny Ivy Tilly Anna Clara".split()
BOYS = "Tim Max Ben Leo Sam Oscar Felix Jack Toby Finn Hugo Otto Milo Theo Rufus Peter".split()

# Animal -> (home, favourite food).
ANIMALS: dict[str, tuple[str, str]] = {
    "fox": ("den", "berries"),
    "rabbit": ("burrow", "carrots"),
    "bear": ("cave", "blueberries"),
    "mouse": ("hole", "cheese"),
    "squirrel": ("hollow tree", "nuts"),
    "hedgehog": ("nest of leaves", "apples"),
    "duck": ("nest", "seeds"),
    "frog": ("hut", "strawberries"),
    "cat": ("cottage", "fish"),
    "dog": ("kennel", "plums"),
    "turtle": ("hut", "lettuce"),
    "kitten": ("cottage", "fish"),
    "puppy": ("kennel", "bread"),
    "bird": ("nest", "seeds"),
    "pig": ("farmhouse", "pears"),
    "goat": ("barn", "apples"),
    "lamb": ("barn", "clover"),
    "otter": ("burrow", "fish"),
    "badger": ("burrow", "mushrooms"),
    "mole": ("tunnel", "potatoes"),
    "raccoon": ("old barn", "grapes"),
    "pony": ("stable", "apples"),
    "donkey": ("stable", "carrots"),
    "goose": ("farmhouse", "corn"),
    "lion": ("cave", "plums"),
    "wolf": ("den", "cherries"),
    "monkey": ("treehouse", "bananas"),
    "elephant": ("hut", "melons"),
    "penguin": ("snow house", "fish"),
    "beaver": ("wooden lodge", "walnuts"),
}
CHILDREN: dict[str, tuple[str, str]] = {"girl": ("house", "strawberries"), "boy": ("house", "cherries")}
HELPERS = [*ANIMALS, "owl", "owl", "farmer", "baker", "fisherman", "gardener", "crow", "deer"]

HERO_ADJECTIVES = "little little little small young kind shy clever brave curious cheerful gentle quiet".split()
HELPER_ADJECTIVES = "old wise kind friendly big gentle clever".split()

PLACES = [
    "in a quiet forest",
    "at the edge of a green forest",
    "near a wide river",
    "on a small farm",
    "in a sunny valley",
    "by a blue lake",
    "in a little village",
    "at the foot of a tall mountain",
    "on a small island",
    "in a big garden",
    "near the sea",
    "on a grassy hill",
    "beside an old mill",
]
WEATHER = [
    "The sun was shining and the sky was blue.",
    "A soft rain was falling.",
    "The wind was cold and strong.",
    "The air was warm and full of the smell of flowers.",
    "Fresh snow covered the ground.",
    "A thick fog lay over the fields.",
    "White clouds moved slowly across the sky.",
    "The leaves were red and gold.",
    "The grass was still wet from the rain.",
    "The birds were singing in the trees.",
]
DAYS = ["sunny", "rainy", "windy", "cold", "warm", "cloudy", "bright", "foggy"]
COLOURS = "red blue green yellow white orange purple silver golden".split()
TOYS = "ball kite boat drum bell hat scarf cup ring key book lamp whistle basket flute spoon".split()
SPOTS = [
    "under a pile of leaves",
    "behind an old log",
    "in the tall grass",
    "under the bridge",
    "beside the well",
    "at the bottom of a basket",
    "between two stones",
    "under a rose bush",
]
FLOWERS = ["a rose", "a sunflower", "an apple tree", "a pumpkin", "a tulip", "a bean", "a strawberry plant"]

# (to do it, doing it, how it goes wrong, how it goes right)
SKILLS: list[tuple[str, str, str, str]] = [
    ("swim", "swimming", "{he} swallowed a lot of water", "{he} swam all the way across the pond"),
    ("whistle", "whistling", "only air came out", "a clear note rang out"),
    ("dance", "dancing", "{he} tripped over {his} own feet", "{he} danced in circles until the stars came out"),
    ("sing", "singing", "{his} voice was much too quiet", "{his} song filled the whole valley"),
    ("paint", "painting", "the paint ran all over the paper", "{he} painted a beautiful picture of the moon"),
    ("bake bread", "baking bread", "the bread was as hard as a stone", "the bread was soft and golden"),
    ("fly a kite", "flying a kite", "the kite fell into a bush", "the kite flew high above the hills"),
    ("skip stones", "skipping stones", "every stone sank at once", "the stone skipped five times over the water"),
    (
        "climb trees",
        "climbing trees",
        "{he} slid down again and again",
        "{he} sat on the highest branch and looked at the clouds",
    ),
    (
        "play the drum",
        "playing the drum",
        "the noise made everyone cover their ears",
        "everyone began to dance to the beat",
    ),
    ("play the flute", "playing the flute", "it sounded like a rusty gate", "a sweet tune floated through the air"),
    ("knit", "knitting", "the wool turned into a big knot", "{he} knitted a warm scarf"),
    ("juggle", "juggling", "all the apples fell on the ground", "{he} kept three apples in the air"),
    ("read", "reading", "the letters made no sense", "{he} read a whole story aloud"),
    (
        "jump over the stream",
        "jumping over the stream",
        "{he} landed in the water with a splash",
        "{he} flew over the stream and landed on the other side",
    ),
    (
        "build a boat",
        "building boats",
        "the boat sank in the middle of the pond",
        "the little boat sailed across the pond",
    ),
]
GIFTS = [
    "warm scarf",
    "honey cake",
    "wooden flute",
    "crown of flowers",
    "picture of the forest",
    "necklace of shells",
    "soft blanket",
    "little wooden boat",
    "paper lantern",
    "little poem",
]
TRAITS = [
    "{He} loved {food} and long walks.",
    "{He} liked to [sing|hum] while {he} worked.",
    "{He} always had a smile for everyone.",
    "{He} was small, but {he} had a big heart.",
    "Every morning, {he} ate {food} for breakfast.",
    "{He} lived in a cosy {home}.",
    "{He} loved to look at the stars.",
    "{He} was a little shy, but very kind.",
    "{He} asked questions about everything.",
    "{His} {home} was [small but warm|always neat and clean].",
    "{He} loved to play outside.",
]
TRAPS = ["in a thorn bush", "in an old net", "between two rocks", "under a fallen branch", "in the mud"]
