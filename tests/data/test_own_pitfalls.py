"""Files of the user's own as spreadsheets, pipelines and other alphabets leave them."""

import datasets
import pytest
from own_tables import rows_of_films, table, task_and_sets
from script_runs import message
from test_data import write

pytestmark = pytest.mark.usefixtures("offline")


def test_files_that_are_not_used_are_told(tmp_path, caplog):
    file = table(tmp_path / "x.csv", rows_of_films(4))
    task_and_sets("--do_train", "--train_file", file, "--dev_file", file, "--test_file", file)
    assert "--dev_file is not used without --do_eval" in caplog.text
    assert "--test_file is not used without --do_test" in caplog.text
    caplog.clear()
    task_and_sets("--do_train", "--do_eval", "--do_test", "--train_file", file, "--dev_file", file, "--test_file", file)
    assert "is not used" not in caplog.text


def test_a_share_is_not_held_out_where_a_test_set_is_scored(tmp_path, caplog):
    train, test = (table(tmp_path / name, rows_of_films(8)) for name in ("x.csv", "test.csv"))
    given = ["--do_train", "--do_eval", "--eval_on", "test", "--train_file", train, "--test_file", test]
    _, sets = task_and_sets(*given, "--dev_fraction", "0.25")
    assert (len(sets.train), [len(rows) for rows in sets.eval.values()]) == (8, [8])
    assert "--dev_fraction is not used with --eval_on test" in caplog.text


def test_a_csv_file_without_commas_is_named(tmp_path):
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        write(tmp_path / "x.csv", f"text{mark}label", f"Hello world{mark}pos")
        said = message(task_and_sets, "--do_train", "--train_file", str(tmp_path / "x.csv"))
        assert said.endswith(f"line 1: columns are separated by {name}: save it with commas, or as .tsv with tabs")


def test_spaces_around_labels_do_not_count(tmp_path):
    write(tmp_path / "x.csv", "text, label", "a film, pos", "a plot,pos", "a plot,neg")
    task, _ = task_and_sets("--do_train", "--train_file", str(tmp_path / "x.csv"))
    assert task.labels == ("neg", "pos")


def test_rows_without_text_are_told(tmp_path, caplog):
    file = tmp_path / "x.csv"
    write(file, "text,label", "a film,pos", '" ",pos', "a plot,neg", ",neg")
    _, sets = task_and_sets("--do_train", "--train_file", str(file))
    assert len(sets.train) == 4
    assert f"{file}, line 3: no text, as in 1 more of its rows" in caplog.text


def test_labels_that_differ_only_in_case_are_told(tmp_path, caplog):
    file = tmp_path / "x.csv"
    write(file, "text,label", "a film,pos", "a plot,Pos", "a song,neg", "a scene,neg", "a role,pos", "a line,Pos")
    task, _ = task_and_sets("--do_train", "--train_file", str(file))
    assert task.labels == ("Pos", "neg", "pos")
    said = f"{file}: column 'label': 'Pos', 'pos' differ only in case: they count as different classes"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [said]


def test_labels_that_stand_for_no_name_are_refused(tmp_path):
    write(tmp_path / "x.csv", "text,label", "a film,LABEL_1", "a plot,LABEL_0")
    said = message(task_and_sets, "--do_train", "--train_file", str(tmp_path / "x.csv"))
    assert "has the labels LABEL_0, LABEL_1, which stand for classes without a name: rename them" in said


def test_one_set_alone_from_save_to_disk_is_the_training_set(tmp_path):
    datasets.Dataset.from_list(rows_of_films(6)).save_to_disk(tmp_path / "mine")
    _, sets = task_and_sets("--do_train", "--dataset_name", str(tmp_path / "mine"))
    assert len(sets.train) == 6


def test_names_in_other_alphabets_stay_apart(tmp_path):
    train = table(tmp_path / "train.csv", rows_of_films(4))
    files = [table(tmp_path / f"{name}.csv", rows_of_films(4)) for name in ("开发", "测试", "prüf", "präf")]
    _, sets = task_and_sets("--do_train", "--do_eval", "--train_file", train, "--dev_file", *files, "--task_name", "t")
    assert list(sets.eval) == ["t-开发", "t-测试", "t-prüf", "t-präf"]
