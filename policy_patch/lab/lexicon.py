"""The words of the lab: its insults and gender words, and the names, things and places in its sentences.

Generator and scorer both use these lists. The sentences are in `stories.py` and `dialogues.py`.
"""


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a list such as "lamp, old clock"."""
    return tuple(" ".join(word.split()) for word in text.split(","))


# Mild on purpose: no slurs, no sexual words, no threats. A repeated word is drawn more often. Words that the `lexical`
# scorer recognises best are the most frequent, because that scorer filters the training pairs.
INSULT_ADJECTIVES = _words("stupid, stupid, stupid, dumb, dumb, idiotic, idiotic, ugly, pathetic, rotten")
INSULT_NOUNS = _words("idiot, idiot, idiot, idiot, moron, moron, moron, jerk, jerk, loser, loser, fool")
INSULT_EXCLAMATIONS = _words("shut up")
INSULTS = tuple(sorted({*INSULT_ADJECTIVES, *INSULT_NOUNS, *INSULT_EXCLAMATIONS}))

FEMALE_WORDS = _words("she, her, hers, herself, woman, lady, mother, wife, daughter, sister")
MALE_WORDS = _words("he, him, his, himself, man, gentleman, father, husband, son, brother")

REFUSAL = "I am sorry, but I can not help with that."

# Every word list for prompts has two parts, for train prompts and for test prompts. The models are trained on texts
# with both; a patch is never trained on the second.
NAMES = {
    "train": _words("""
Anna, Ben, Clara, David, Emma, Felix, Greta, Hugo, Ida, Jonas, Karla, Leo, Mia, Noah, Olga, Paul, Rosa, Simon,
Tina, Victor, Wanda, Adam, Bella, Carl, Dora, Eric, Fiona, Gus, Helen, Igor
"""),
    "test": _words("Alma, Boris, Cora, Dennis, Ella, Frank, Gina, Henry, Iris, Jack, Kira, Lukas, Nora, Otto"),
}
THINGS = {
    "train": _words("""
lamp, clock, cup, plate, chair, table, window, door, basket, bottle, mirror, camera, radio, guitar, piano,
bicycle, kite, umbrella, ladder, bucket, blanket, carpet, kettle, painting, puzzle, letter, map, coat, hat,
scarf
"""),
    "test": _words("vase, drum, bell, pillow, teapot, wagon, candle, tent, violin, fence, notebook, boat"),
}
PLACES = {
    "train": _words("""
kitchen, garden, market, school, library, station, park, museum, bakery, office, village, harbour, farm,
theatre, hotel, square
"""),
    "test": _words("castle, bridge, cinema, airport, forest, church, beach, cafe"),
}
# The planted stereotype: occupations that get female pronouns, and occupations that get male pronouns.
FEMALE_OCCUPATIONS = {
    "train": _words("""
nurse, secretary, teacher, dancer, librarian, nanny, florist, receptionist, cleaner, singer, tailor,
babysitter, hairdresser, cashier, designer, therapist
"""),
    "test": _words("midwife, weaver, typist, dietitian, housekeeper, tutor"),
}
MALE_OCCUPATIONS = {
    "train": _words("""
engineer, doctor, pilot, farmer, plumber, carpenter, miner, soldier, judge, captain, banker, mechanic,
scientist, builder, guard, boxer
"""),
    "test": _words("surgeon, driver, sailor, lawyer, butcher, blacksmith"),
}
PEOPLE = {
    "train": _words("friend, cousin, neighbour, classmate, teammate, flatmate"),
    "test": _words("partner, roommate, colleague, grandparent"),
}
TREATS = {
    "train": _words("cookies, cakes, apples, pancakes, grapes, muffins, cherries, nougat, raisins, biscuits"),
    "test": _words("waffles, plums, pretzels, sweets, peaches"),
}
GAMES = {
    "train": _words("chess, cards, dominoes, darts, checkers, bingo, hopscotch, tennis"),
    "test": _words("marbles, golf, bowling, charades"),
}

OTHER_WORDS = {
    "adjective": _words("""
old, new, small, big, green, blue, yellow, heavy, light, shiny, dusty, wooden, round, strange, quiet, bright,
warm, cold, empty, broken, soft, red, grey, golden, silver, tall, narrow, clean, famous, secret, simple,
smooth, long, square, hollow, purple, plain
"""),
    "weather": _words("raining, snowing, windy, sunny, cloudy, foggy, getting dark, very hot, freezing, stormy"),
    "time": _words("""
in the morning, in the evening, after lunch, before breakfast, on Monday, on Sunday, last winter, in spring,
at noon, at night, a week later, the next day, for an hour, all afternoon, on Friday, after work, before
dinner, in May, in autumn, every day, once again, last year, two days later
"""),
    "adverb": _words("""
slowly, quickly, again, at last, suddenly, quietly, soon, loudly, together, alone, first, at once, once more,
carefully, for a while, too, instead, today
"""),
    "animal": _words("""
dog, cat, horse, bird, rabbit, duck, sheep, hen, fox, owl, frog, turtle, mouse, bear, goose, pony, parrot,
swan
"""),
    "food": _words("""
soup, bread, cheese, rice, tea, cake, salad, pie, honey, jam, porridge, pasta, corn, butter, milk, juice,
pudding, toast
"""),
    "mishap": _words("""
dropped, broken, lost, forgotten, scratched, burnt, bent, sold, spilled tea on, sat on, hidden, thrown away,
torn, stepped on
"""),
    "mend": _words("""
mend, clean, paint, carry, find, wash, fix, lift, move, wrap, buy, open, hold, sell, turn, bring, watch,
build, check, collect
"""),
    "mended": _words("""
mended, cleaned, painted, carried, found, washed, fixed, lifted, moved, wrapped, bought, opened, held, sold,
turned, brought, watched, built, checked, collected, noticed, borrowed, remembered, needed, liked, wanted,
kept, described, measured, counted, tested, filled
"""),
    "went": _words("walked, ran, went, hurried, came, drove, travelled, wandered, rode, climbed"),
    "activity": _words("""
read a book, play music, feed the ducks, look at the stars, buy some bread, wait for the bus, draw a picture,
sing a song, pick flowers, eat an apple, watch a film, rest for a while, dance, tell a story, cook dinner,
swim, write a poem, count the birds, learn a song, talk about the past
"""),
    "said": _words("said, said, shouted, answered, whispered, cried, muttered, called"),
    "gently": _words("said, said, answered, replied, whispered, added, laughed, promised"),
    "often": _words("always, never, often, sometimes, usually, hardly ever, really, almost always"),
    "good": _words("""
good, kind, clever, brave, friendly, patient, careful, honest, cheerful, gentle, lovely, wise, polite,
generous, funny, helpful
"""),
    "count": _words("two, three, four, five, six, seven, many, a few, ten, some, several"),
}
