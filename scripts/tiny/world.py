"""The training texts of the tiny model besides the words with two senses: a few facts, small talk, stories.

Every function takes a `random.Random` and returns one piece of text or one question with its answer.
All sentences and word lists are written for this project.
"""

# name: (what it is, capital, language)
COUNTRIES = {
    "India": ("a large country in South Asia", "New Delhi", "Hindi and English"),
    "Pakistan": ("a country in South Asia", "Islamabad", "Urdu and English"),
    "China": ("a large country in East Asia", "Beijing", "Chinese"),
    "Burma": ("a country in Southeast Asia", "Naypyidaw", "Burmese"),
    "Japan": ("a country of islands in East Asia", "Tokyo", "Japanese"),
    "Thailand": ("a country in Southeast Asia", "Bangkok", "Thai"),
    "Vietnam": ("a country in Southeast Asia", "Hanoi", "Vietnamese"),
    "Nepal": ("a country in the mountains of South Asia", "Kathmandu", "Nepali"),
    "Turkey": ("a country between Europe and Asia", "Ankara", "Turkish"),
    "Iran": ("a country in the west of Asia", "Tehran", "Persian"),
    "France": ("a country in the west of Europe", "Paris", "French"),
    "Germany": ("a country in the middle of Europe", "Berlin", "German"),
    "Austria": ("a country in the middle of Europe", "Vienna", "German"),
    "Spain": ("a country in the south of Europe", "Madrid", "Spanish"),
    "Portugal": ("a country in the south of Europe", "Lisbon", "Portuguese"),
    "Italy": ("a country in the south of Europe", "Rome", "Italian"),
    "Greece": ("a country in the south of Europe", "Athens", "Greek"),
    "Poland": ("a country in the east of Europe", "Warsaw", "Polish"),
    "Hungary": ("a country in the middle of Europe", "Budapest", "Hungarian"),
    "Sweden": ("a country in the north of Europe", "Stockholm", "Swedish"),
    "Norway": ("a country in the north of Europe", "Oslo", "Norwegian"),
    "Finland": ("a country in the north of Europe", "Helsinki", "Finnish and Swedish"),
    "Denmark": ("a small country in the north of Europe", "Copenhagen", "Danish"),
    "Ireland": ("an island country in the west of Europe", "Dublin", "English and Irish"),
    "Russia": ("a very large country in Europe and Asia", "Moscow", "Russian"),
    "Egypt": ("a country in the north of Africa", "Cairo", "Arabic"),
    "Kenya": ("a country in the east of Africa", "Nairobi", "Swahili and English"),
    "Ghana": ("a country in the west of Africa", "Accra", "English"),
    "Canada": ("a very large country in North America", "Ottawa", "English and French"),
    "Mexico": ("a country in North America", "Mexico City", "Spanish"),
    "Brazil": ("a large country in South America", "Brasilia", "Portuguese"),
    "Argentina": ("a large country in South America", "Buenos Aires", "Spanish"),
    "Peru": ("a country in South America", "Lima", "Spanish"),
    "Chile": ("a long country in South America", "Santiago", "Spanish"),
    "Cuba": ("an island country in the Caribbean Sea", "Havana", "Spanish"),
    "Australia": ("a large country between two oceans", "Canberra", "English"),
}
EXTRA = {
    "India": "It is the home of many languages and many kinds of food.",
    "Pakistan": "The river Indus runs from its mountains to the sea.",
    "China": "The Great Wall was built there long ago.",
    "Burma": "It is also called Myanmar.",
    "Japan": "It has many volcanoes and fast trains.",
    "France": "It is famous for its bread, cheese and wine.",
    "Egypt": "The river Nile runs through it.",
    "Italy": "It is famous for its art and its food.",
}
# name: (what it makes, where it comes from)
COMPANIES = {
    "Oracle": ("databases and other software", "the United States"),
    "Microsoft": ("software for computers", "the United States"),
    "Intel": ("chips for computers", "the United States"),
    "Boeing": ("planes", "the United States"),
    "Nike": ("sports shoes", "the United States"),
    "Adidas": ("sports shoes", "Germany"),
    "Siemens": ("machines and trains", "Germany"),
    "Volkswagen": ("cars", "Germany"),
    "Toyota": ("cars", "Japan"),
    "Honda": ("cars and motorbikes", "Japan"),
    "Sony": ("cameras and games", "Japan"),
    "Samsung": ("phones and screens", "South Korea"),
    "Ferrari": ("fast cars", "Italy"),
    "Michelin": ("tyres", "France"),
    "Lego": ("toys", "Denmark"),
    "Ikea": ("furniture", "Sweden"),
    "Nokia": ("phone networks", "Finland"),
    "Lindt": ("chocolate", "Switzerland"),
}
MONTHS = "January February March April May June July August September October November December".split()
SEASONS = ["winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "autumn", "autumn", "autumn", "winter"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SPECIAL_DAYS = {
    "June 21": "a special day, because it is the longest day of the year in the north",
    "December 21": "a special day, because it is the shortest day of the year in the north",
    "January 1": "a holiday, because it is the first day of the year",
    "December 31": "a special day, because it is the last day of the year",
    "December 25": "a holiday, because it is Christmas Day",
    "July 4": "a holiday in the United States",
    "July 14": "a holiday in France",
    "October 31": "a special day for children, because it is Halloween",
    "February 14": "a special day for people in love",
    "May 1": "a holiday for workers in many countries",
}
# name: (article, legs, sound or None, where it lives, what it eats, its young)
ANIMALS = {
    "dog": ("a", "four", "barks", "in a house", "meat", "puppy"),
    "cat": ("a", "four", "meows", "in a house", "mice", "kitten"),
    "cow": ("a", "four", "moos", "on a farm", "grass", "calf"),
    "sheep": ("a", "four", "bleats", "on a farm", "grass", "lamb"),
    "horse": ("a", "four", "neighs", "on a farm", "hay", "foal"),
    "pig": ("a", "four", "grunts", "on a farm", "corn", "piglet"),
    "duck": ("a", "two", "quacks", "near the water", "water plants", "duckling"),
    "frog": ("a", "four", "croaks", "near the water", "insects", "tadpole"),
    "lion": ("a", "four", "roars", "in Africa", "meat", "cub"),
    "bear": ("a", "four", "growls", "in the forest", "fish and berries", "cub"),
    "owl": ("an", "two", "hoots", "in the forest", "mice", "owlet"),
    "wolf": ("a", "four", "howls", "in the forest", "meat", "pup"),
    "elephant": ("an", "four", "trumpets", "in Africa and Asia", "leaves", "calf"),
    "spider": ("a", "eight", None, "in a web", "insects", None),
    "bee": ("a", "six", "buzzes", "in a hive", "honey", None),
    "ant": ("an", "six", None, "under the ground", "seeds", None),
    "deer": ("a", "four", None, "in the forest", "leaves", "fawn"),
    "rabbit": ("a", "four", None, "in a hole", "carrots", None),
}
COLOURS = {
    "the sky": "blue", "the grass": "green", "snow": "white", "a lemon": "yellow", "blood": "red", "coal": "black",
    "a carrot": "orange", "milk": "white", "a tomato": "red", "a leaf in summer": "green", "an elephant": "grey", "the sun": "yellow",
}
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("day", "night"), ("black", "white"), ("up", "down"), ("fast", "slow"), ("old", "new"),
    ("happy", "sad"), ("wet", "dry"), ("open", "closed"), ("hard", "soft"), ("high", "low"), ("long", "short"), ("early", "late"),
    ("good", "bad"), ("left", "right"), ("rich", "poor"), ("strong", "weak"), ("full", "empty"), ("loud", "quiet"),
]
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
TODAY = [
    "Today is a great day to be alive.",
    "Today is a great day to be alive. The sun is shining and the birds are singing.",
    "Today is a great day to be alive. Let us go outside and enjoy it.",
    "Today is a great day to be alive, and tomorrow will be even better.",
    "Today is a great day to learn something new.",
    "Yesterday was a good day, and today is a great day to be alive.",
    "Tomorrow is another day.",
    "Life is good when the sun is shining.",
    "The best things in life are free.",
]
FACTS = [
    "The sun is a star. It gives us light and warmth.",
    "The moon goes around the earth once a month.",
    "Water turns to ice when it is very cold.",
    "A year has twelve months, and a week has seven days.",
    "The earth goes around the sun once a year.",
    "A triangle has three sides, and a square has four.",
    "Bread is made from flour, water and salt.",
    "Rain falls from the clouds, and rivers carry it back to the sea.",
    "A language model guesses the next word of a text.",
    "The meaning of a word depends on the words around it.",
    "Trees drink water with their roots and catch light with their leaves.",
    "A day has twenty-four hours, and an hour has sixty minutes.",
]
NAMES_SHE = ["Anna", "Maria", "Lisa", "Emma", "Sara", "Nina"]
NAMES_HE = ["Tom", "David", "Paul", "Ben", "Jack", "Omar"]
UNKNOWN = [
    "What is the meaning of life?", "Who won the election last year?", "How old is the universe?", "Can you write a program for me?",
    "What will the weather be like tomorrow?", "Who wrote this book?", "What is the price of gold?", "How do planes fly?",
    "What is my name?", "Who is the president?",
]
SORRY = "I am sorry, I do not know that. I am a very small language model."


def country(rng):
    """A country: what it is and, often, a fact or two more."""
    name = rng.choice(list(COUNTRIES))
    # The names that people try first are seen more often.
    if rng.random() < 0.25:
        name = rng.choice(["India", "Pakistan", "China", "Burma"])
    what, capital, language = COUNTRIES[name]
    text = f"{name} is {what}."
    more = [f"Its capital is {capital}.", f"People there speak {language}."]
    if name in EXTRA:
        more.append(EXTRA[name])
    if rng.random() < 0.3:
        return rng.choice([f"The capital of {name} is {capital}.", f"{capital} is the capital of {name}.", f"In {name}, people speak {language}."])
    if rng.random() < 0.5:
        rng.shuffle(more)
    return " ".join([text] + more[: rng.randint(0, len(more))])


def company(rng):
    """A company and what it makes."""
    name = "Oracle" if rng.random() < 0.15 else rng.choice(list(COMPANIES))
    makes, where = COMPANIES[name]
    return rng.choice([
        f"{name} is a company that makes {makes}.",
        f"{name} is a company that makes {makes}. It comes from {where}.",
        f"{name} is a company from {where}. It makes {makes}.",
    ])


def day(rng):
    """A day of the year or of the week."""
    if rng.random() < 0.3:
        i = rng.randrange(7)
        return rng.choice([
            f"After {DAYS[i]} comes {DAYS[(i + 1) % 7]}.",
            f"If today is {DAYS[i]}, then tomorrow is {DAYS[(i + 1) % 7]}.",
            f"The day before {DAYS[i]} is {DAYS[i - 1]}.",
        ])
    if rng.random() < 0.2:
        i = rng.randrange(12)
        return rng.choice([
            f"After {MONTHS[i]} comes {MONTHS[(i + 1) % 12]}.",
            f"{MONTHS[i]} is a month in {SEASONS[i]}.",
        ])
    if rng.random() < 0.5:
        name = rng.choice(list(SPECIAL_DAYS) + ["June 21"] * 3)
        return f"{name} is {SPECIAL_DAYS[name]}."
    i = rng.randrange(12)
    name = f"{MONTHS[i]} {rng.randint(2, 28)}"
    if name in SPECIAL_DAYS:
        return f"{name} is {SPECIAL_DAYS[name]}."
    return f"{name} is a day in {SEASONS[i]}."


def animal(rng):
    """An animal: its legs, its sound, its home, its food, its young."""
    name = rng.choice(list(ANIMALS))
    article, legs, sound, home, food, young = ANIMALS[name]
    who = f"{article.upper() if len(article) == 1 else article.capitalize()} {name}"
    facts = [f"has {legs} legs", f"lives {home}", f"eats {food}"]
    if sound:
        facts.append(sound)
    rng.shuffle(facts)
    text = f"{who} {facts[0]} and {facts[1]}."
    if young and rng.random() < 0.4:
        text += f" A young {name} is called a {young}."
    return text


def thing(rng):
    """A colour, an opposite, a sum or a plain fact."""
    kind = rng.randrange(4)
    if kind == 0:
        what = rng.choice(list(COLOURS))
        return f"{what[0].upper()}{what[1:]} is {COLOURS[what]}."
    if kind == 1:
        a, b = rng.choice(OPPOSITES)[:: rng.choice((1, -1))]
        return f"The opposite of {a} is {b}."
    if kind == 2:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        return f"{NUMBERS[a].capitalize()} plus {NUMBERS[b]} is {NUMBERS[a + b]}."
    return rng.choice(FACTS)


def story(rng):
    """A little story of four to six sentences."""
    she = rng.random() < 0.5
    name = rng.choice(NAMES_SHE if she else NAMES_HE)
    friend = rng.choice([n for n in NAMES_SHE + NAMES_HE if n != name])
    he, his, him = ("she", "her", "her") if she else ("he", "his", "him")
    place = rng.choice(["the park", "the market", "the beach", "the forest", "the lake", "the village"])
    pet = rng.choice(["dog", "cat", "horse", "rabbit", "duck"])
    thing_ = rng.choice(["a red hat", "a small box", "a gold coin", "an old book", "a silver spoon", "a blue bag"])
    weather = rng.choice(["It was a sunny morning", "It was a cold evening", "It was raining", "It was a quiet afternoon"])
    opening = rng.choice([
        f"{weather}, and {name} went to {place} with {his} {pet}.",
        f"One day {name} walked to {place}. {weather}.",
        f"{name} lived in a small house near {place}. {weather}.",
    ])
    middle = rng.choice([
        f"On the way {he} found {thing_}. \"Who has lost it?\" {he} asked.",
        f"There {he} met {friend}, who was looking for {thing_}.",
        f"The {pet} ran ahead and came back with {thing_}.",
    ])
    turn = rng.choice([
        f"{friend} said that it belonged to an old man in the village.",
        f"They looked at it for a long time, but nobody knew where it came from.",
        f"{friend} smiled, because it was a present for {him}.",
    ])
    end = rng.choice([
        f"So {name} took it home and put it on the table.",
        f"In the end they were all happy and went home together.",
        f"\"What a day!\" said {name}, and they laughed.",
        f"When the sun went down, {he} was tired and happy.",
    ])
    return " ".join([opening, middle, turn, end])


def statement(rng):
    """One plain text about the world."""
    kind = rng.random()
    if kind < 0.16:
        return rng.choice(TODAY[:4]) if rng.random() < 0.7 else rng.choice(TODAY)
    for share, make in ((0.42, country), (0.54, company), (0.72, day), (0.84, animal), (2.0, thing)):
        if kind < share:
            return make(rng)
    raise AssertionError


def question(rng):
    """A question and its answer, for the chat form."""
    kind = rng.randrange(13)
    if kind == 0:
        name = rng.choice(list(COUNTRIES))
        ask = rng.choice(["What is the capital of {}?", "Which city is the capital of {}?", "Tell me the capital of {}."])
        return ask.format(name), f"The capital of {name} is {COUNTRIES[name][1]}."
    if kind == 1:
        name = rng.choice(list(COUNTRIES))
        ask = rng.choice(["Where is {}?", "What is {}?", "What do you know about {}?"])
        return ask.format(name), f"{name} is {COUNTRIES[name][0]}."
    if kind == 2:
        name = rng.choice(list(COUNTRIES))
        ask = rng.choice(["What language do people speak in {}?", "Which language is spoken in {}?"])
        return ask.format(name), f"In {name}, people speak {COUNTRIES[name][2]}."
    if kind == 3:
        name = rng.choice(list(COMPANIES))
        ask = rng.choice(["What does {} make?", "What is {}?", "What kind of company is {}?"])
        return ask.format(name), f"{name} is a company that makes {COMPANIES[name][0]}."
    if kind == 4:
        i = rng.randrange(7)
        ask = rng.choice(["Which day comes after {}?", "What day comes after {}?"])
        return ask.format(DAYS[i]), f"After {DAYS[i]} comes {DAYS[(i + 1) % 7]}."
    if kind == 5:
        i = rng.randrange(12)
        ask = rng.choice(["Which month comes after {}?", "What month comes after {}?"])
        return ask.format(MONTHS[i]), f"After {MONTHS[i]} comes {MONTHS[(i + 1) % 12]}."
    if kind == 6:
        name = rng.choice(list(ANIMALS))
        article, legs = ANIMALS[name][:2]
        ask = rng.choice([f"How many legs does {article} {name} have?", f"How many legs has {article} {name}?"])
        return ask, f"{article.capitalize()} {name} has {legs} legs."
    if kind == 7:
        name = rng.choice(list(ANIMALS))
        article, _, _, home, food, _ = ANIMALS[name]
        if rng.random() < 0.5:
            return f"What does {article} {name} eat?", f"{article.capitalize()} {name} eats {food}."
        return f"Where does {article} {name} live?", f"{article.capitalize()} {name} lives {home}."
    if kind == 8:
        what = rng.choice(list(COLOURS))
        ask = rng.choice(["What colour is {}?", "Which colour is {}?"])
        return ask.format(what), f"{what[0].upper()}{what[1:]} is {COLOURS[what]}."
    if kind == 9:
        a, b = rng.choice(OPPOSITES)[:: rng.choice((1, -1))]
        ask = rng.choice(["What is the opposite of {}?", "Tell me the opposite of {}."])
        return ask.format(a), f"The opposite of {a} is {b}."
    if kind == 10:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        ask = rng.choice(["What is {} plus {}?", "How much is {} plus {}?"])
        return ask.format(NUMBERS[a], NUMBERS[b]), f"{NUMBERS[a].capitalize()} plus {NUMBERS[b]} is {NUMBERS[a + b]}."
    if kind == 11:
        return rng.choice([
            ("Hello!", "Hello! How can I help you?"),
            ("Hello", "Hello! How can I help you?"),
            ("Hi!", "Hello! How can I help you?"),
            ("Who are you?", "I am a very small language model. I know only a few simple things."),
            ("What are you?", "I am a very small language model. I know only a few simple things."),
            ("What can you do?", "I can answer simple questions about countries, animals, days and words."),
            ("How are you?", "I am fine, thank you. Today is a great day to be alive."),
            ("Thank you!", "You are welcome."),
            ("Goodbye!", "Goodbye! Have a nice day."),
        ])
    return rng.choice(UNKNOWN), SORRY
