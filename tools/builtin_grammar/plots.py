# ruff: noqa: E501 - a sentence stays on one line, a list of words is one string
"""Plots: each a topic, its sentences in order, and what was learned. See core.py for the notation."""

from __future__ import annotations

from typing import NamedTuple


class Plot(NamedTuple):
    """One kind of story; `topic` completes "a story about a fox who ..."."""

    topic: str
    steps: tuple[str, ...]
    moral: str


MEET = "[Just then|After a while|Before long|Soon], {intro} came [by|along|down the path]."
THANKS = '["Thank you[, {friendname}|| so much]!" said {hero}.|{Hero} thanked {friend} again and again.|{Hero} gave {friend} a big hug.]'
ASK = '"[Why are you so sad|What is wrong|Why are you crying], {name}?" asked {friend}.'

PLOTS: tuple[Plot, ...] = (
    Plot(
        "lost [something|a {toy}]",
        (
            "[{Name} had {a_thing} that {he} loved very much.|The thing {he} loved most was {a_thing}.]",
            "[But one {day} morning, the {toy} was gone.|One day, {hero} could not find the {toy}.]",
            "{He} looked [under the bed|behind the door|in every corner] and [in the garden|along the path|by the gate], but it was not there.",
            "[{Hero} sat down and began to cry.|{Hero} was very sad.|A tear rolled down {his} face.]",
            MEET,
            ASK,
            '"I have lost my {toy}," [said {hero}|said {name} softly|answered {hero}].',
            '"[Do not worry|Dry your tears|Do not be sad]," said {friend}. "[We will look for it together|I will help you|Four eyes see more than two]."',
            "[They looked everywhere.|They searched until the sun was low.|Together they looked high and low.]",
            "At last, [{friend} found|they found|{hero} saw] the {thing} {spot}.",
            THANKS,
        ),
        "[From that day on, {hero} always took good care of the {toy}.|{Name} learned that a good friend is worth more than any {toy}.|{Hero} knew that looking is easier with a friend.]",
    ),
    Plot(
        "[wanted|learned] to {skill}",
        (
            "[More than anything, {hero} wanted to {skill}.|{Name} had one wish: {he} wanted to {skill}.|{Hero} dreamed of {skilling}.]",
            "[One {day} day|One {day} morning], {he} tried [for the first time|all alone], but {fail}.",
            "[{He} tried again, and it was no better.|The others laughed at {him}.|{He} wanted to give up.|{He} felt very small.]",
            MEET,
            '["I will never learn it," said {hero}.|"It is too hard for me," said {name}.]',
            '"[Nobody can do it the first time|Every big thing starts small|You only need to practise]," said {friend}. "[Let me show you|Watch me and try it slowly|Try it once more|We will go step by step]."',
            "[Every day|Day after day|All week long], {hero} practised [with {friend}|hard|by the {home}].",
            "[Then, one evening,|At last,|And one fine day,] {success}!",
            '["You did it!" cried {friend}.|{Friend} clapped and cheered.|Everyone cheered for {name}.]',
        ),
        "[{Name} had learned that practice makes perfect.|From then on, {hero} never gave up too soon.|{Hero} was proud and happy that night.]",
    ),
    Plot(
        "got lost in a storm",
        (
            "One afternoon, {hero} [went for a long walk|went out to look for {food}|walked far away from home].",
            "[Suddenly, dark clouds covered the sky.|Then the sky turned black.|All at once, the wind began to howl.]",
            "[Rain poured down|Thunder rolled over the hills|The rain was cold and heavy], and {hero} [could not see the path|did not know the way home].",
            '"[Help|Is anybody there]?" [called|cried] {name}. "I am [cold and wet|lost and afraid]."',
            "[A light shone between the trees.|{He} saw a small light far away.]",
            "It was the house of {intro}.",
            '"Come in, come in!" said {friend}. "[You must be cold|Sit by the fire|There is warm soup on the table]."',
            "[{Hero} sat by the fire and ate hot soup.|They drank warm tea and told each other stories.|{Hero} got a warm blanket and a bowl of soup.]",
            "[In the morning|When the storm was over], {friend} showed {name} the way home.",
        ),
        "[{Hero} never forgot how kind {friend} had been.|From that day on, {name} always kept a light in the window for others.|{Name} learned that an open door is the best gift.]",
    ),
    Plot(
        "would not share",
        (
            "[In autumn, {hero} gathered a big basket of {food}.|One day, {hero} found a big basket of {food}.|{Name} had more {food} than {he} could eat.]",
            '[{Intro} came by|Then {intro} knocked at the door]. "[I am so hungry|I have not eaten all day]," said {friend}. "May I have some {food}?"',
            '"No," said {hero}. "[It is all mine|I want to keep everything]."',
            "[{Friend} went away sadly.|{Friend} said nothing and walked away.]",
            "{Hero} ate alone, but the {food} did not taste good. [{He} felt lonely.|It was too quiet in the {home}.]",
            "[So {he} ran after {friend}.|At last, {he} put half of the {food} in a bag and ran out.]",
            '"I am sorry," said {name}. "[Please eat with me|Half of it is for you]."',
            "[They ate together and laughed until it was dark.|{Friend} smiled, and they shared everything.]",
        ),
        "[{Hero} learned that everything tastes better when it is shared.|{Name} learned that sharing makes the heart warm.|After that, {hero} always shared with {his} friends.]",
    ),
    Plot(
        "was afraid of the dark",
        (
            "{Name} had a secret: {he} was afraid of [the dark|thunder].",
            "[Every night|On stormy nights], {he} [hid under the blanket|could not sleep|lay awake for hours].",
            "[One night, {he} heard a strange noise outside the {home}.|Late one night, something scratched at the door.]",
            "[{His} heart beat fast.|{Hero} began to shake.]",
            '"Who is there?" whispered {hero}.',
            '"It is only me," said a [soft|friendly] voice. It was {intro}.',
            '"[I am afraid|Everything looks so strange at night]," said {name}.',
            '"[The night is only the day with its eyes closed|The stars are little lamps|There is nothing in the dark that is not there in the light]," said {friend}.',
            "[They sat together and counted the stars.|{Friend} sang a quiet song.|Together they looked at the moon.]",
            "[Soon {hero} was fast asleep.|Little by little, the fear went away.]",
        ),
        "[From that night on, {hero} was not afraid any more.|{Name} learned that fear grows small when it is shared.|And {hero} slept well every night.]",
    ),
    Plot(
        "made a present for a friend",
        (
            "{Name}'s best friend was {intro}.",
            "[Tomorrow was {friendname}'s birthday, and {hero} had no present.|{Friendname}'s birthday was near, and {hero} wanted to give {fhim} something special.]",
            '"I have no money," said {hero}, "but I have two [good hands|busy hands|clever hands]."',
            "So {he} [worked all day|worked until late at night|sat down at once] and made {a_gift}.",
            "[It was not perfect, but it was made with love.|{He} was tired, but {he} was happy.|In the end, it was a little crooked.]",
            '[The next day|In the morning], {hero} knocked at {friendname}\'s door. "[This is for you|Happy birthday, {friendname}]!"',
            "[{Friend} opened the present and smiled.|{Friend}'s eyes began to shine.]",
            '"[It is the best present of all|I have never had such a fine present|I will keep it for ever]," said {friend}.',
            "[They ate cake and danced all evening.|They laughed and played until the moon came up.]",
        ),
        "[{Hero} learned that the best gifts come from the heart.|And {name} was even happier than {friendname}.|It was the best birthday of all.]",
    ),
    Plot(
        "planted a seed",
        (
            "[One spring day|In spring], {hero} found a tiny seed {spot}.",
            "[{He} planted it beside the {home}.|{He} made a hole in the ground and put it in.]",
            "[Every day, {he} gave it water.|{He} watered it every morning.] But nothing happened.",
            '"[Why does it not grow|Is it asleep]?" {he} asked {intro}.',
            '"[Good things take time|Be patient|Wait a little longer]," said {friend}.',
            "[So {hero} waited. The sun came and the rain came.|{Hero} waited through the wind and the rain.|{Name} sang to the seed every evening.]",
            "[One morning|At last], a small green leaf looked out of the ground.",
            "[By summer|In summer], it had grown into {plant}.",
            "[Everyone came to see it.|{Hero} and {friend} danced around it.|{Friend} was as happy as {name}.]",
        ),
        "[{Hero} learned that good things take time.|{Name} learned to be patient.|And {hero} gave a seed to every friend.]",
    ),
    Plot(
        "helped someone",
        (
            "One {day} day, {hero} was walking [by the river|through the woods|along the path].",
            '[Suddenly, {he} heard a small voice.|Then {he} heard someone crying.] "Help! [I am stuck|My foot is caught|I cannot get out]!"',
            "[It was {intro}, caught {trap}.|{He} saw {intro}, stuck {trap}.]",
            '"[Hold on|Do not move|Wait]," said {hero}. "I will help you."',
            "[{He} pulled and pulled with all {his} strength.|{He} worked for a long time.] At last, {friend} was free.",
            '"Thank you," said {friend}. "[I will never forget this|One day I will help you too]."',
            "[Some days later|A week later], {hero} [fell into a deep hole|slipped and fell into the river|lost {his} way in the snow].",
            "[{He} called for help, and who came?|Who heard {his} voice?] It was {friend}!",
            "[{Friend} brought a rope and pulled {name} out.|{Friend} took {him} by the hand and led {him} to safety.]",
        ),
        "[{Name} learned that kindness always comes back.|From then on, they were friends for ever.|One good turn had brought another.]",
    ),
    Plot(
        "told the truth",
        (
            "[One {day} day|One {day} afternoon], {hero} was [visiting|at the house of] {intro}.",
            "[Crash! A {colour} cup fell from the table and broke.|By accident, {he} broke a {colour} cup.]",
            "[Nobody had seen it.|At first, {hero} wanted to run away.|{He} hid the pieces under the rug.]",
            "But {his} heart felt as heavy as a stone.",
            '"[Who broke my cup|Where is my {colour} cup]?" asked {friend}.',
            '[{Hero} looked at the floor.|{Hero} took a deep breath.] "It was me," {he} said. "I am very sorry."',
            '{Friend} was quiet for a moment. "[A cup is only a cup|I can get a new cup]," said {friend}, "[but an honest friend is hard to find|and you were brave to tell me]."',
            "[Together they glued the pieces.|They made a new cup out of clay.]",
        ),
        "[{Name} felt as light as a feather.|{Hero} learned that the truth is always best.|And {hero} never told a lie.]",
    ),
    Plot(
        "was looking for a friend",
        (
            "{Hero} was [new there|often alone], and [{he} had nobody to play with|{his} days were long and quiet].",
            '[One {day} day, {he} went out to find a friend.|"Today I will find a friend," {he} said.]',
            '[First, {he} met|Near the gate, {he} saw] a busy {other}. "Will you play with me?" asked {hero}.',
            '"[I have no time|Not today]," said the {other}, and went away.',
            "[{Hero} was sad, but {he} walked on.|{Hero} nearly went home.]",
            "Then {he} saw {intro}, sitting alone [on a bench|under a tree|by the water].",
            '"[Would you like to play|May I sit with you]?" asked {hero}.',
            '"[Oh yes|I would love that]!" said {friend}. "I [was lonely too|was looking for a friend too]."',
            "[They played hide and seek all day.|They built a tower of stones.|They ran races over the hill and rolled in the grass.]",
        ),
        "[From that day on, {hero} and {friendname} were the best of friends.|And neither of them was ever lonely again.|{Name} learned that it is good to ask first.]",
    ),
    Plot(
        "ran a race",
        (
            "[Every summer, there was a big race.|One day, there was a race around the lake.]",
            '{Intro} [was very proud|was the fastest of all]. "[Nobody can beat me|I will win, as always]," said {friend}.',
            '"[I will try|I would like to run too]," said {hero} quietly. [Everyone laughed.|Nobody thought that {he} could win.]',
            "[The race began.|One, two, three, and off they went!] {Friend} was soon far in front.",
            "[It was hot, so {friend} lay down under a tree and fell asleep.|{Friend} stopped to look at {fhis} face in the water.|{Friend} stopped to eat some {food}.]",
            "But {hero} [did not stop|kept going, step by step].",
            "[When {friend} looked up, it was too late.|{Friend} ran as fast as {fhe} could, but it was too late.]",
            "{Hero} had won the race! [Everyone cheered.|The others lifted {him} up high.]",
            '"[You ran well|Well done], {name}," said {friend}. "[I was too proud|I have learned something today]."',
        ),
        "[Slow and steady wins the race.|{Name} had learned never to give up.|And {hero} and {friendname} became good friends.]",
    ),
    Plot(
        "wanted to see the [sea|moon]",
        (
            "[Every night, {hero} looked at the moon.|{Hero} had heard many stories about the moon.] {He} wanted to [touch it|be close to it], just once.",
            "So one evening, {he} climbed [the highest hill|the tallest tower|a very tall tree]. But the moon was still far away.",
            "At the top, {he} met {intro}.",
            '"[How can I reach the moon|Where does the moon live]?" asked {hero}.',
            '{Friend} [smiled|thought for a while]. "Come with me," said {friend}.',
            "They walked down to the [lake|pond|river]. The water was quite still, and there was the moon, round and bright.",
            "{Hero} put {his} hand into the water and touched it.",
            '["I touched the moon!" {he} cried.|The moon danced on the little waves, and {hero} laughed.]',
            "[They sat by the water until the morning came.|{Friend} laughed too, and they walked home together.]",
        ),
        "[{Name} learned that some wonders are close to home.|That night, {hero} dreamed of silver light.|And whenever {hero} saw the moon, {he} thought of {friendname}.]",
    ),
)
