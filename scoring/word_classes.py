"""Lists classes of English words, endings and marks, so that a label can name the class instead of its members."""

_MEMBERS = {
    "pronouns": """
        i you he she it we they me him her us them my your his its our their
        myself himself herself themselves""",
    "negations": """
        not no never nor none nothing cannot without don't didn't doesn't isn't wasn't can't couldn't won't wouldn't""",
    "question words": "who what where when why how which whose whom",
    "modal verbs": "can could may might will would shall should must",
    "forms of be": "is are was were be been being am",
    "months": "january february march april june july august september october november december",
    "weekdays": "monday tuesday wednesday thursday friday saturday sunday",
    "number words": """
        one two three four five six seven eight nine ten eleven twelve hundred thousand million
        first second third fourth fifth""",
    "family members": """
        mother father mom dad mum daddy mommy sister brother son daughter parent parents
        grandma grandpa grandmother grandfather uncle aunt wife husband""",
    "colours": "red blue green yellow black white brown orange purple pink grey gray golden",
    "quantifiers": "all each every some any many much most more few several both another",
    "hedges": "sometimes often usually maybe perhaps probably possibly likely rarely",
}

CLASSES_OF: dict[str, tuple[str, ...]] = {}
"""Word in lower case -> names of its classes."""
for _name, _words in _MEMBERS.items():
    for _word in _words.split():
        CLASSES_OF[_word] = (*CLASSES_OF.get(_word, ()), _name)

OPENING, CLOSING, QUOTES = "([{", ")]}", '"\u201c\u201d\u201e\u00ab\u00bb'

ENDINGS = (
    *(
        "ly",
        "ing",
        "ed",
        "ous",
        "tion",
        "sion",
        "ment",
        "ness",
        "able",
        "ible",
        "ful",
        "less",
        "ism",
        "ist",
        "ity",
        "ive",
    ),
    *("est", "ence", "ance", "ical", "logy", "itis", "oma", "emia", "osis", "pathy", "ectomy"),
)
"""Endings that mean something by themselves."""
