"""The corpus of tasks' training texts."""

import json

from script_runs import message
from test_data import write

from data import corpus


def test_training_texts_alone_each_once(tmp_path, caplog):
    """Not what a dev or test set has too; a test set without labels counts, and one that is not there is named."""
    sets = tmp_path / "sets"
    rows = [f"a {word} film\t1" for word in ("warm", "dull", "fresh", "weak")]
    write(sets / "SST-2" / "train.tsv", "sentence\tlabel", *rows, rows[0], "seen  in dev\t0", "seen in test\t0")
    write(sets / "SST-2" / "dev.tsv", "sentence\tlabel", "seen in dev\t0")
    write(sets / "SST-2" / "test.tsv", "index\tsentence", "0\tseen in test")
    question = {"question": "how?", "choice": ["so", "or so", "not"], "answer": "so"}
    dialogue = [["M: is it good?", "W: it is."], [question], "1"]
    for split in ("train", "dev", "test"):
        given = dialogue if split == "train" else [["M: no."], [question], "2"]
        write(sets / "DREAM" / f"{split}.json", json.dumps([given]))
    write(sets / "WNUT17" / "wnut17train.conll", "Ana\tB-person", "sings\tO", "")
    write(sets / "WNUT17" / "emerging.dev.conll", "a\tO", "")
    output = tmp_path / "corpus" / "all.txt"
    with caplog.at_level("INFO", "asa"):
        corpus.main(["--tasks", "sst-2", "DREAM", "wnut17", "--data_dir", str(sets), "--output", str(output)])
    expected = {f"a {word} film" for word in ("warm", "dull", "fresh", "weak")} | {"Ana sings"}
    [found] = [line for line in output.read_text().splitlines() if line.startswith("M: ")]
    assert found.split() == "M: is it good? W: it is. how? so or so not".split()
    assert set(output.read_text().splitlines()) == expected | {found}
    assert len(output.read_text().splitlines()) == 6
    said = "SST-2: 4 documents, without 2 that are there already, or have a text that is evaluated"
    assert said in caplog.messages
    assert [line for line in caplog.messages if "WNUT-2017: what it shares" in line]


def test_a_pair_with_an_evaluated_sentence_and_a_question_about_an_evaluated_dialogue_are_left_out(tmp_path):
    """Though no pair and no question is evaluated itself; a question that is asked elsewhere too is kept."""
    sets = tmp_path / "sets"
    pairs = ["1\ta new film\ta plot\tentailment", "2\tone\tseen  in dev\tentailment", "3\tunseen\tone\tentailment"]
    write(sets / "RTE" / "train.tsv", "index\tsentence1\tsentence2\tlabel", *pairs)
    write(sets / "RTE" / "dev.tsv", "index\tsentence1\tsentence2\tlabel", "0\tseen in dev\tanother\tentailment")
    write(sets / "RTE" / "test.tsv", "index\tsentence1\tsentence2", "0\tother\tunseen")
    how, why = ({"question": word, "choice": ["so", "or so", "not"], "answer": "so"} for word in ("how?", "why?"))
    dialogues = {"train": [[["M: no."], [why], "1"], [["W: yes."], [how], "2"]], "dev": [[["M: no."], [how], "3"]]}
    for split in ("train", "dev", "test"):
        write(sets / "DREAM" / f"{split}.json", json.dumps(dialogues.get(split, dialogues["dev"])))
    output = tmp_path / "all.txt"
    corpus.main(["--tasks", "RTE", "DREAM", "--data_dir", str(sets), "--output", str(output), "--held_out", "0"])
    assert set(output.read_text().splitlines()) == {"a new film a plot", "W: yes. how? so or so not"}


def test_what_shares_a_text_is_on_one_side():
    """A premise with three hypotheses, and a chain of pairs; more than are to be held out are trained on."""
    groups = {f"{text} {more}": frozenset((text, f"{text}{more}")) for text in "abcdefgh" for more in "123"}
    held_out, train = corpus.divide(groups, 0.4, seed=0)
    assert len(held_out) == 9  # of 10
    assert {document[0] for document in held_out}.isdisjoint(document[0] for document in train)
    assert sorted(held_out + train) == sorted(groups)
    chain = {f"pair {number}": frozenset((str(number), str(number + 1))) for number in range(8)}
    held_out, train = corpus.divide({**chain, "alone": frozenset(("other",))}, 0.5, seed=0)
    assert (held_out, len(train)) == (["alone"], 8)


def test_a_share_is_held_out_and_the_order_follows_from_the_seed(tmp_path):
    write(tmp_path / "sets" / "SST-2" / "train.tsv", "sentence\tlabel", *(f"film {number}\t1" for number in range(50)))
    write(tmp_path / "sets" / "SST-2" / "dev.tsv", "sentence\tlabel", "a film\t1")

    def written(seed: str) -> tuple[list[str], list[str]]:
        output = tmp_path / f"{seed}.txt"
        flags = ["--held_out", "0.2", "--seed", seed, "--output", str(output)]
        corpus.main(["--tasks", "SST-2", "--data_dir", str(tmp_path / "sets"), "--overwrite", *flags])
        return output.read_text().splitlines(), corpus.held_out_file(output).read_text().splitlines()

    train, held_out = written("1")
    assert (len(train), len(held_out)) == (40, 10)
    assert sorted(train + held_out) == sorted(f"film {number}" for number in range(50))
    assert written("1") == (train, held_out)
    assert written("2") != (train, held_out)
    said = message(corpus.main, ["--tasks", "SST-2", "--output", "x.txt", "--held_out", "1"])
    assert said == "--held_out 1: give a share from 0, below 1"


def test_nothing_of_an_earlier_corpus_is_left_beside_another(tmp_path):
    write(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel", "a film\t1", "a plot\t1")
    write(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel", "a film\t1")
    output = tmp_path / "all.txt"
    write(corpus.held_out_file(output), "a plot")
    given = ["--tasks", "SST-2", "--data_dir", str(tmp_path), "--held_out", "0", "--output"]
    said = message(corpus.main, [*given, str(output)])
    assert said == f"{corpus.held_out_file(output)} exists already: give another --output, or add --overwrite"
    corpus.main([*given, str(output), "--overwrite"])
    assert output.read_text() == "a plot\n"
    assert not corpus.held_out_file(output).exists()
    said = message(corpus.main, [*given, str(tmp_path / "all.csv")])
    assert said.endswith("all.csv: its name must end in .txt, by which run_mlm.py knows plain text")
    write(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel", "a film\t1", "a plot\t1")
    assert message(corpus.main, [*given, str(output)]) == "--tasks SST-2: no document is left to train on"
