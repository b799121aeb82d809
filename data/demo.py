"""The DEMO task: a small generated sentiment task with a planted shortcut, written by `python -m data.demo`.

Every sentence names a weekday. In the training set and `dev.tsv`, the weekday predicts the label in 90 % of the rows;
in `shifted.tsv`, it predicts the opposite label just as often. The opinion about the film gives the label in every row,
but is harder to read: negations reverse a word, only the main clause counts in sentences with "although", and a third
of the adjectives appear only in the evaluation sets.
"""

import random
from pathlib import Path

from utils import Parser, run_script, write_text

SEED = 20230207
ROWS = {"train": 2400, "dev": 400, "shifted": 400, "test": 200}
SHORTCUT_HOLDS = {"train": 0.9, "dev": 0.9, "shifted": 0.1, "test": 0.9}
LABELS = (0, 1)
DAYS = ("tuesday", "friday")  # the shortcut for each label

ADJECTIVES = (
    "dull clumsy tired shallow noisy lifeless muddled bland tedious awkward hollow stale dreary forced flat lazy sloppy"
    " predictable joyless pointless silly confusing weak grim messy empty slow ugly boring".split(),
    "tender witty vivid graceful moving sharp inventive warm gripping honest lively charming elegant funny fresh subtle"
    " dazzling heartfelt clever delightful wonderful thrilling smart sweet superb rich touching brilliant bold".split(),
)
KEPT_BACK = 10  # the last adjectives of each list, which never appear in a training row
NOUNS = (
    "the plot|the cast|the script|the dialogue|the ending|the score|the pacing|the photography|the lead actor"
    "|the second half|the opening|the editing|the villain|the humour|the romance|the direction"
).split("|")
VENUES = (
    "at the old cinema|with my sister|at a matinee|in a packed hall|on a small screen|after work|with friends"
).split("|")
ADVERBS = ("", "rather ", "quite ", "really ", "remarkably ", "often ")
NEGATIONS = ("not", "never", "hardly", "far from", "anything but")
CONCESSIONS = ("although", "even though", "while")
NEGATED, CONCEDED = 0.1, 0.2  # shares of opinions and of sentences


def write_demo(folder: str | Path) -> None:
    """Write train, dev, shifted and test files with the columns of SST-2; every call writes the same files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        rows = make_rows(split, count)
        if split == "test":
            lines = ["index\tsentence"] + [f"{index}\t{sentence}" for index, (sentence, _) in enumerate(rows)]
        else:
            lines = ["sentence\tlabel"] + [f"{sentence}\t{label}" for sentence, label in rows]
        write_text(folder / f"{split}.tsv", "\n".join(lines) + "\n")


def make_rows(split: str, count: int) -> list[tuple[str, int]]:
    """Make `count` pairs of sentence and label: balanced labels, and the shortcut in an exact share of the rows."""
    choose = random.Random(f"{SEED} {split}")
    adjectives = tuple(words[:-KEPT_BACK] if split == "train" else words for words in ADJECTIVES)
    rows = []
    for label in LABELS:
        of_label = count // len(LABELS)
        holds = round(of_label * SHORTCUT_HOLDS[split])
        for row in range(of_label):
            day = DAYS[label if row < holds else 1 - label]
            rows.append((_sentence(choose, label, day, adjectives), label))
    choose.shuffle(rows)
    return rows


def _sentence(choose: random.Random, label: int, day: str, adjectives: tuple[list[str], ...]) -> str:
    main, aside = choose.sample(NOUNS, 2)
    opinion = f"{main} is {_opinion(choose, label, adjectives)}"
    if choose.random() < CONCEDED:
        concession = f"{choose.choice(CONCESSIONS)} {aside} is {_opinion(choose, 1 - label, adjectives)}"
        opinion = f"{opinion} , {concession}" if choose.random() < 0.5 else f"{concession} , {opinion}"
    return f"seen on {day} {choose.choice(VENUES)} : {opinion} ."


def _opinion(choose: random.Random, label: int, adjectives: tuple[list[str], ...]) -> str:
    if choose.random() < NEGATED:
        return f"{choose.choice(NEGATIONS)} {choose.choice(adjectives[1 - label])}"
    return choose.choice(ADVERBS) + choose.choice(adjectives[label])


def main() -> None:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data/sets", help="the folder DEMO is made here (default: %(default)s)")
    write_demo(Path(parser.parse_args().data_dir) / "DEMO")


if __name__ == "__main__":
    run_script(main)
