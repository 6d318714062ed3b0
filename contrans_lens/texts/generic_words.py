"""Words of the generic corpus by kind, written for this package. Names and places are invented."""


def _words(text: str) -> tuple[str, ...]:
    """Entries between semicolons; line breaks count as spaces."""
    return tuple(entry.strip() for entry in " ".join(text.split()).split(";"))


WORDS: dict[str, tuple[str, ...]] = {
    "name": _words(
        """
        Anna Berg; Tomas Reyes; Leila Haddad; Owen Pike; Mirela Stan; Jonas Fell; Ada Kimura; Peter Lund;
        Rosa Delgado; Samir Nadeem; Clara Voss; Hugo Brandt; Nina Okafor; Elias Moreau; Greta Holm; Victor
        Amadi; Ines Carvalho; Martin Sole; Yara Antoun; Dominic Ashe
        """
    ),
    "person": _words(
        """
        Mia; Ben; Olive; Marcus; Lena; Theo; Ruth; Amir; Sophie; Karl; Dana; Felix; Grace; Ivan; Hannah;
        Noah; Priya; Walter
        """
    ),
    "town": _words(
        """
        Harrowfield; Ostermouth; Lindale; Marrow Bay; Tessin; Quarry Hill; Bellhaven; Norvik; Saltmere;
        Greyford; Castel Aurea; Pinewater; Dunmore Cross; Velden; Hollin Bridge
        """
    ),
    "region": _words(
        """
        the Northern Marches; the Vale of Orrin; the Lower Tamsin valley; the Western Isles of Corr; the
        high plains of Estera; the Amber lowlands; the lake country; the eastern provinces; the dry south of
        the island; the old mining district
        """
    ),
    "century": _words(
        """
        twelfth; thirteenth; fourteenth; fifteenth; sixteenth; seventeenth; eighteenth; nineteenth
        """
    ),
    "year": _words(
        """
        1742; 1803; 1851; 1887; 1904; 1926; 1933; 1958; 1971; 1986; 1999; 2007
        """
    ),
    "number": _words(
        """
        two; three; four; five; six; seven; nine; eleven; fifteen; twenty; forty
        """
    ),
    "count": _words(
        """
        1,200; 3,400; 8,500; 17,000; 42,000; 61,000; 130,000; 240,000
        """
    ),
    "day": _words(
        """
        Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday
        """
    ),
    "month": _words(
        """
        January; March; April; May; June; August; September; October; November
        """
    ),
    "animal": _words(
        """
        grey heron; marsh frog; brown hare; river otter; barn owl; field mouse; mountain goat; sand lizard;
        tawny fox; black stork; hedgehog; harbour seal
        """
    ),
    "plant": _words(
        """
        wild thyme; silver birch; common reed; sea holly; black walnut; meadow saffron; dwarf pine; river
        mint; bog myrtle; white clover
        """
    ),
    "craft": _words(
        """
        glass blowing; boat building; lace making; copper engraving; bookbinding; basket weaving; clock
        making; cheese making; stone carving; rope making
        """
    ),
    "building": _words(
        """
        town hall; lighthouse; railway station; old library; covered market; water mill; city theatre; grain
        store; stone bridge; observatory
        """
    ),
    "material": _words(
        """
        granite; red brick; oak; limestone; iron; slate; sandstone; concrete
        """
    ),
    "food": _words(
        """
        barley soup; plum cake; smoked trout; lentil stew; rye bread; apple pie; mushroom pie; fish broth;
        honey cake; pepper salad; cheese omelette; potato soup; roast chicken
        """
    ),
    "object": _words(
        """
        umbrella; bicycle; notebook; blue suitcase; camera; violin; winter coat; wristwatch; toolbox; garden
        hose; reading lamp; leather bag; silver ring
        """
    ),
    "job": _words(
        """
        a schoolteacher; a surveyor; a ship's cook; a village doctor; a court clerk; a beekeeper; a railway
        engineer; a translator; a piano tuner; a baker; a night nurse; a geologist
        """
    ),
    "relative": _words(
        """
        brother; sister; mother; father; grandmother; uncle; cousin; neighbour
        """
    ),
    "sport": _words(
        """
        rowing; chess; handball; cycling; table tennis; volleyball; swimming; orienteering
        """
    ),
    "subject": _words(
        """
        the history of paper; soil chemistry; coastal birds; early maps; bridge design; sleep in infants;
        medieval trade; the physics of ice; folk music; urban transport
        """
    ),
    "good": _words(
        """
        laughed out loud and hugged everyone in the room; could not stop smiling all afternoon; felt lighter
        than in years; danced around the kitchen; called every friend to share the news
        """
    ),
    "bad": _words(
        """
        sat down on the stairs and cried; did not speak for the rest of the day; stared at the rain for
        hours; left without saying goodbye; lay awake until the morning
        """
    ),
    "angry": _words(
        """
        slammed the door so hard that the windows shook; threw the letter into the fire; shouted that this
        was the last time; clenched both fists under the table
        """
    ),
    "afraid": _words(
        """
        held their breath behind the curtain; ran without once looking back; locked the door and listened;
        could not stop trembling
        """
    ),
    "event": _words(
        """
        the harbour festival; a public hearing; the annual book fair; a charity concert; the spring regatta;
        a chess tournament; the farmers' market; a school play
        """
    ),
    "cause": _words(
        """
        heavy snow; a burst water main; a shortage of drivers; a fallen tree; repairs to the signals;
        flooding on the lower road; a power failure
        """
    ),
    "claim": _words(
        """
        the old bridge was built in a single winter; cats can see in complete darkness; the hill was once an
        island; the first mayor could not read; honey never spoils; the river used to flow the other way;
        the bell was cast from melted coins
        """
    ),
    "device": _words(
        """
        kettle; camera; toaster; reading lamp; electric heater; sewing machine; radio; coffee grinder;
        printer
        """
    ),
    "stuff": _words(
        """
        copper; wool; salt; timber; amber; tin; wheat; linen; coal; olive oil; dried fish; paper
        """
    ),
    "weather": _words(
        """
        fog; hail; a dry wind from the east; the first frost; a week of rain; sudden heat; a clear cold
        night
        """
    ),
    "illness": _words(
        """
        measles; a broken ankle; a stubborn cough; migraine; an infected tooth; low blood pressure;
        pneumonia
        """
    ),
}
"""Fillings by kind of gap."""
