"""Frames of the generic corpus by voice, written for this package: sentences with gaps for words."""

import re


def _frames(text: str) -> tuple[str, ...]:
    """Entries that each begin with a dash at the head of a line; line breaks count as spaces."""
    entries = re.split(r"^\s*- ", text, flags=re.MULTILINE)[1:]
    return tuple(" ".join(entry.split()) for entry in entries)


FRAMES: dict[str, tuple[str, ...]] = {
    "encyclopaedia": _frames(
        """
        - {town} is a market town in {region}, known since the {century} century for {craft} and for its
          {building}, which is built of local {material}.
        - The {animal} feeds at dusk along the edges of wetlands, where {plant} gives it cover, and raises
          {number} young in a good year.
        - {name} was {job} before turning to {subject}, and published a first study of it in {year} at the age
          of thirty.
        - Before the {century} century most of {region} was covered by forest; the trees were felled for ships,
          mines and, above all, for {craft}.
        - In cooking, {plant} is used sparingly, since its leaves turn bitter when they are boiled for more than
          a few minutes.
        - The {building} of {town} was opened in {year}, closed after a fire, and rebuilt in {material} by
          public subscription.
        - With a population of about {count}, {town} is the largest settlement in {region} and the seat of its
          only university.
        - The method was first described by {name}, {job} from {town}, who noticed that {material} expands a
          little on warm days.
        - {craft} came to {region} with settlers in the {century} century and remained the main source of income
          until the railway arrived in {year}.
        - Unlike its relatives, the {animal} does not hibernate but moves to lower ground when the first frost
          comes, usually in late {month}.
        - There are {number} known species in the genus, of which only one, a close relative of {plant}, grows
          above the tree line.
        - The word first appears in a letter of {year}, in which {name} complains that nobody in {town} can
          explain what it means.
        - A valley glacier moves because its own weight slowly deforms the ice; near {town} one of them has
          advanced by {number} metres a year since {year}.
        - The trade in {stuff} linked {town} with harbours as far away as {town_2}, and a guild controlled both
          weights and prices until the {century} century.
        - {name} wrote four novels, none of which sold during the author's lifetime, and earned a living as
          {job} in {region}.
        - The flag of {region} shows a {animal} on a green field; according to legend it warned the garrison of
          a night attack in {year}.
        - An alphabet is a set of signs in which each stands, more or less, for one sound; the script used in
          {region} is an exception, as it has no vowels.
        - Sound travels faster in water than in air, and a seal that dives near {town} can therefore hear a ship
          long before anyone on the pier sees it.
        """
    ),
    "news": _frames(
        """
        - Trains between {town} and {town_2} were delayed for several hours on {day} because of {cause}, the
          operator said.
        - The council of {town} voted on {day} to repair the {building}, a decision that divided residents for
          more than two years.
        - About {count} people came to {town} for {event} at the weekend, more than in any year since {year}.
        - Researchers studying {subject} said on {day} that their results, although early, were stronger than
          they had expected.
        - {name}, who has led the town's {sport} club since {year}, will step down in {month}, a spokesman
          confirmed.
        - Prices for bread and fuel rose again in {month}, and shopkeepers in {town} expect no relief before the
          new year.
        - Police in {town} are looking for the owner of a {object} that was found near the {building} on {day}
          morning.
        - After {cause}, {number} families in {region} spent the night in a school gymnasium while crews worked
          to restore power.
        - A court in {town} ruled on {day} that the sale of the {building} had been lawful, ending a dispute
          that began in {year}.
        - Visitors to {event} will be able to travel free of charge on {day}, according to the mayor's office.
        - {name}, {job} who was rescued from the river near {town} on {day}, told reporters that the water had
          been colder than anything.
        - The {sport} team of {town} lost its third match in a row on {day}, and supporters left the ground well
          before the end.
        - The central bank left interest rates unchanged on {day}, citing weak demand for {stuff} and
          uncertainty about next year's harvest.
        - Scientists who drilled through the lake bed near {town} reported traces of {stuff} that are older than
          any known settlement in {region}.
        - Doctors in {town} warned of {illness} among schoolchildren after {weather} and advised parents to keep
          them at home until {day}.
        - A software fault closed every cash machine in {region} for {number} hours on {day}; no money was lost,
          the banks insisted.
        - Negotiators for both governments met in {town} on {day} and agreed on nothing except the date of their
          next meeting.
        - The minister denied having received a gift of {stuff} from the company, and then admitted on {day}
          that there had been a dinner.
        """
    ),
    "story": _frames(
        """
        - When {person} opened the letter and read that the {object} had been found, {person_2} {good}.
        - {person} waited at the {building} until dark, but nobody came, and on the way home {person_2} {bad}.
        - On hearing that {person} had sold the {object} behind everyone's back, {person_2} {angry}.
        - Something moved in the cellar of the {building}, and {person} {afraid} until the footsteps were gone.
        - {person} had promised to bring the {object} on {day}, yet when the morning came the shelf was empty
          and the window stood open.
        - The milk had turned, the bread was green, and {person} pushed the plate away with a shudder and went
          to open the window.
        - Every evening {person} walked past the {building} with the dog, counted the lit windows, and went home
          by the river.
        - {person} lifted the lid, expecting {food}, and found instead a {object} wrapped in newspaper from
          {year}.
        - It was the first warm {day} of the year, and {person} carried two chairs into the garden so that the
          old {relative} could sit in the sun.
        - {person} and {person_2} had not spoken since {month}, and now they stood side by side in the same
          queue, each holding a {object}.
        - The candles were lit, {food} stood on the table, and when {person} came in from the cold everyone
          began to sing.
        - {person} signed the paper without reading it, as people do when they are tired, and understood only in
          {month} what it had said.
        - After {weather}, {person} found the path to the {building} covered with feathers, and in the middle of
          it a single glove.
        - {person} had been ill with {illness} for so long that the smell of {food} from the kitchen felt like a
          visit from another country.
        - The captain counted the lifeboats twice, looked at {person}, and said in a voice without any colour
          that there were {number} too few.
        - Under the stone lay a key, and {person}, who had lied about it for {number} years, put it quietly into
          {person_2}'s hand.
        """
    ),
    "dialogue": _frames(
        """
        - "Could you tell me the way to the {building}, please?" asked {person}. "Of course," said the woman, "I
          am going there myself."
        - "Move your {object}, it is in my way," said {person} without looking up, and {person_2} did not
          answer.
        - "I did take the {object}," {person} admitted, "and I am sorry that I let you search for it all {day}."
        - "I have never seen that {object} in my life," said {person}, pushing it further under the bed with one
          foot.
        - "Thank you so much for the {food}," said {person}; "it was very kind of you to think of us."
        - "You always say that," {person} snapped, "and then it is me who has to clean the {object} again."
        - "Are you certain that {claim}?" asked {person}. "No," said {person_2}, "but my {relative} tells it
          that way."
        - "We won!" cried {person} from the stairs. "The {sport} cup is ours, and nobody believed that we would
          even get through!"
        - "Did you hear that noise?" whispered {person}. "It came from the {building}, and there is nobody there
          at this hour."
        - "How was {event}?" asked {person}. "Long," said {person_2}, "but the {food} was worth the wait."
        - "I cannot promise that," said {person}, "but I can tell you exactly what I know about the {object} and
          what I do not."
        - "Would you mind closing the window?" asked {person}. "Not at all," said {person_2}, and got up at
          once.
        - "If we sell the {stuff} now, we lose money," said {person}. "If we wait," answered {person_2}, "we may
          lose the shop."
        - "Is it serious, doctor?" asked {person}. "It is only {illness}," the doctor said, "and you will be on
          your feet by {day}."
        - "Nobody is to blame for {weather}," said {person}. "No," said {person_2}, "but somebody left the
          windows open."
        - "You gave her twice as much as me!" complained {person}. "I gave each of you what you asked for," said
          the {relative}.
        """
    ),
    "letter": _frames(
        """
        - Dear {name}, thank you for your patience; the {object} that you ordered in {month} will be sent on
          {day} at no extra cost.
        - Dear {person}, I am writing because I can no longer keep quiet about what happened at {event}, and you
          deserve to hear it from me.
        - To whom it may concern: the {device} I bought from your shop in {town} broke on the first day, and
          nobody answers the telephone.
        - Dear {relative}, the children send their love from {town}, where it has rained since {day} and
          everyone is reading.
        - Please note that the {building} will be closed on {day}; we apologise for any trouble this may cause
          and will be glad to help by telephone.
        - Hello {person}, I found your {object} under the back seat, so you can stop looking; come round for
          {food} any evening.
        - Dear colleagues, the meeting about {subject} is moved from {day} to the following week, since {name}
          is ill.
        - My dear {person}, the house is so quiet since you left that even the {animal} in the garden seems to
          be waiting for you.
        - Sir, your account of {event} in last week's paper was wrong in almost every detail, as any resident of
          {town} could have told you.
        - Dear {person}, you asked me for the truth about the {object}: I broke it in {month}, I hid it, and I
          should have told you then.
        - Dear Doctor {name}, since you treated me for {illness} I have been able to walk to the {building} and
          back every morning.
        - Dear neighbours, on {day} we are celebrating our wedding with music and {food}; forgive us the noise,
          or better, join us.
        - I regret to inform you, Mr Pike, that your application to study {subject} was not successful, although
          the committee admired your essay.
        """
    ),
    "review": _frames(
        """
        - The {food} at the small place behind the {building} was wonderful, the staff remembered our names, and
          we will certainly come back.
        - I expected more from a restaurant in {town}: the {food} was cold, the waiter was short with us, and
          the bill was wrong.
        - This {object} has survived two winters and a house move, and it still looks as good as on the day it
          arrived.
        - The {device} stopped working after a week, the instructions make no sense, and the company does not
          reply.
        - {name}'s book on {subject} is patient and clear, and the chapter about {region} is the best thing
          written on it so far.
        - The new production at {town} is handsome to look at, but the second half drags, and nobody seems to
          care how it ends.
        - A fair hotel for one night; the room was clean enough, the breakfast dull, and the view of the
          {building} the same as in the picture.
        - If you are interested in {subject}, skip this lecture and read the notes instead, which are free and
          far better organised.
        - We came for {event} and stayed for the {food}; next year we shall book earlier and bring the whole
          family.
        - The seats at {event} were hard, the sound was poor, and the person in charge refused to give anybody
          their money back.
        - As an introduction to {subject} the film is hopeless, but the photography of {region} after {weather}
          makes up for a good deal.
        - The tour of the {building} takes {number} minutes too long, and our guide, who was charming, made up
          half of what he told us.
        """
    ),
    "question": _frames(
        """
        - Question: What is {town} known for? Answer: It is known for {craft} and for the {building} that was
          finished in {year}.
        - Question: Is it true that {claim}? Answer: It is often said, but there is no record of it.
        - Question: Is it true that {claim}? Answer: Yes, everybody knows that.
        - Question: How long does {food} keep? Answer: Two or three days in a cool place, and a little longer
          when it is covered.
        - Question: Where does the {animal} sleep? Answer: Mostly in hollow trees, and in summer among {plant}.
        - Question: Who founded the {sport} club of {town}? Answer: It was founded in {year} by {name}, {job}.
        - Question: Can you help me repair my {device}? Answer: Gladly; begin by taking off the back and tell me
          what you see.
        - Question: Should the prize be shared between {person} and {person_2}? Answer: Yes, because both did
          the same amount of work.
        - Question: How do I get from {town} to {town_2}? Answer: Take the morning train and change once; on
          {day} there is also a bus.
        - Question: Did you take my {object}? Answer: Yes, I borrowed it on {day}, and I should have asked you
          first.
        - Question: Did you take my {object}? Answer: No, I was in {town} all week, as you can ask anyone.
        - Question: Why did the price of {stuff} rise in {year}? Answer: Because {weather} had ruined the roads,
          and hardly anything reached {town}.
        - Question: What helps against {illness}? Answer: Rest, warm drinks and patience; see a doctor if it
          lasts longer than {number} days.
        - Question: Which is heavier, a kilo of {stuff} or a kilo of feathers? Answer: Neither, since a kilo is
          a kilo.
        - Question: Who should pay for the broken {object}? Answer: The one who broke it, unless both of them
          were playing.
        """
    ),
    "instruction": _frames(
        """
        - To make {food}, soak the grain overnight, warm the pot slowly, and stir in one direction until the
          spoon stands by itself.
        - Before you clean the {device}, unplug it, wait until it is cool, and wipe it with a dry cloth rather
          than a wet one.
        - Plant {plant} in {month}, in a place that gets sun until noon, and water it only when the soil feels
          dry.
        - If the {device} makes a knocking sound, tighten the lower screw first, since this is the cause in most
          cases.
        - Walkers should keep to the marked path between {town} and the {building}, as the ground beside it is
          soft after rain.
        - When you study {subject}, write down what you expect before you look at the data, and keep the note
          even if it was wrong.
        - Keep {food} away from the dog, store it below eight degrees, and throw it out when it smells sour.
        - Visitors are kindly asked to leave each {object} at the entrance and to speak quietly near the reading
          room.
        - When a guest at {event} complains, listen to the end, thank them for telling you, and offer what you
          would want yourself.
        - If you meet a {animal} on the path to the {building}, stand still, keep the dog close, and let it
          pass.
        - Store {stuff} in a dry room, check it every {day}, and write the weight on the door so that the next
          person can see it.
        - In case of {weather}, close the shutters first, then bring in the animals, and only then look after
          the {object}.
        - Count the votes for {event} twice, let one person from each side watch, and read out the result before
          anyone leaves the room.
        """
    ),
    "opinion": _frames(
        """
        - Whatever one thinks of {event}, it brings people from all over {region} into one square, and that is
          worth something.
        - It is not fair that {number} of the oldest workers are asked to carry the same load for less pay than
          the newcomers.
        - People who say that {sport} is boring have usually never had to decide anything in the last minute of
          a match.
        - At {event} both sides were heard for exactly ten minutes, and the judge, who knew neither, asked each
          the same questions.
        - The plan to replace the {building} by a car park is careless, and those who drew it up have plainly
          never walked through {town}.
        - I used to believe that {claim}; then I spent a week in the archive of {town} and changed my mind.
        - A teacher should be free to say that a question about {subject} has no answer yet, and pupils should
          be free to look for one.
        - The manager at {town} gave the easy shifts to friends and the night shifts to everyone else, and
          called it a system.
        - Anyone who has lost a {object} on a train knows that honesty is common and that it is seldom in the
          news.
        - I do not mind losing at {sport}; I mind a referee who looks away when it is his own cousin who breaks
          the rule.
        - No law about {stuff} will ever please both {town} and {town_2}, and a good one will annoy them
          equally.
        - It takes courage to say at {event} that one was wrong, and more to say it to one's own {relative}.
        - If a child in {region} falls ill with {illness}, it should not matter what the parents earn.
        """
    ),
}
"""Frames by voice. ``{name}`` and ``{name_2}`` are two different names."""
