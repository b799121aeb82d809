"""The origin of the official files, one row per task: URLs, checksums, size, licence and terms.

The files go into `<data_dir>/<name>`, under the names that `data.tasks` expects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from data.formats import row_ids
from data.tasks import SENTENCE_TASKS
from utils import InputError, counted

Sums = Mapping[str, str]


@dataclass(frozen=True)
class Remote:
    """One URL.

    sha256: checksum of the download, in hex; empty if unknown.
    files: path in the task's folder -> sha256 (or empty). The download is this one file, or an archive.
    inside: the folder with `files` in a zip archive; None if the download is the file itself.
    """

    url: str
    sha256: str
    files: Sums
    inside: str | None = None


@dataclass(frozen=True)
class Source:
    """One task.

    megabytes: download size, in millions of bytes.
    terms: licence and terms of use, as its authors state them.
    sums_from: source of the checksums.
    build: makes the files in `built` (path -> sha256) from the fetched ones in the given folder.
    instead: instructions for data that cannot be fetched freely; `{folder}` is where the files belong.
    """

    name: str
    terms: str
    megabytes: float = 0.0
    remotes: tuple[Remote, ...] = ()
    sums_from: str = ""
    build: Callable[[Path], Mapping[str, str]] | None = None
    built: Sums = field(default_factory=dict)
    instead: str = ""


def build_mrpc(folder: Path) -> dict[str, str]:
    """Make MRPC's train, dev and test.tsv from the corpus's two files, as GLUE's own download_glue_data.py does.

    GLUE's list of the dev rows' ids is stored next to this module, so it need not be fetched.

    Raises:
        InputError: a row does not have five columns; the message names file and line.
    """
    header, rows = _mrpc_rows(folder / "msr_paraphrase_train.txt")
    train = SENTENCE_TASKS["MRPC"].train
    assert train is not None  # true of MRPC
    assert train.part is not None
    dev_ids = set(row_ids(folder, train.part.ids))
    sets = {"train.tsv": [header], "dev.tsv": [header], "test.tsv": ["index\t#1 ID\t#2 ID\t#1 String\t#2 String"]}
    for label, *ids_and_texts in rows:
        name = "dev.tsv" if tuple(ids_and_texts[:2]) in dev_ids else "train.tsv"
        sets[name].append("\t".join((label, *ids_and_texts)))
    _, rows = _mrpc_rows(folder / "msr_paraphrase_test.txt")
    sets["test.tsv"] += ["\t".join((str(index), *columns)) for index, (_, *columns) in enumerate(rows)]
    return {name: "\n".join(lines) + "\n" for name, lines in sets.items()}


def _mrpc_rows(path: Path) -> tuple[str, list[list[str]]]:
    # Read as plain UTF-8, which keeps the byte-order mark: the official train.tsv and dev.tsv have it too. Not
    # splitlines(), which also splits at the rarer Unicode line separators.
    header, *lines = path.read_text(encoding="utf-8").rstrip().split("\n")
    rows = [line.strip().split("\t") for line in lines]
    for number, row in enumerate(rows, 2):
        if len(row) != 5:
            raise InputError(f"{path}, line {number}: {counted(len(row), 'column')} where 5 are expected")
    return header, rows


FACEBOOK = "https://dl.fbaipublicfiles.com"
GITHUB = "https://raw.githubusercontent.com"
DREAM = f"{GITHUB}/nlpdata/dream/bb64644c209cb6497bb9e13244fbf220c900a740"
WNUT = f"{GITHUB}/leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603"
# The `datasets` library verified these at every download, when it still fetched the official archives itself.
RECORD = (
    "recorded in github.com/huggingface/datasets at 040102f100964a33fd334e2695f1c493fa6b92db,"
    " datasets/{}/dataset_infos.json"
)
COPY = (
    "computed from the unpacked official archive in github.com/F0restL1n/BERT"
    " at 0d0288be08079531c7b3a85af3d532f9adb0f13a, glue_data/"
)
ORIGINAL = "computed from the official files at the commit in their address, the same as "

TSV = MappingProxyType({"train.tsv": "", "dev.tsv": "", "test.tsv": ""})
COLA_RAW = "original/raw"
GLUE = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "AX")


def _files(address: str, sums: Sums) -> tuple[Remote, ...]:
    return tuple(Remote(f"{address}/{name}", sha256, {name: sha256}) for name, sha256 in sums.items())


def _glue(name: str, megabytes: float, terms: str, archive: str, sha256: str, files: Sums = TSV) -> Source:
    sums_from = f"archive: {RECORD.format('glue')}"
    if any(files.values()):
        sums_from += f"; unpacked files: {COPY}"
    remote = Remote(f"{FACEBOOK}/glue/data/{archive}", sha256, files, inside=name)
    return Source(name, terms, megabytes, (remote,), sums_from)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _glue(
            "CoLA",
            0.4,
            "none stated by GLUE; sentences quoted from the linguistics literature",
            "CoLA.zip",
            "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
            {
                "train.tsv": "cb368ebeb9f27d7ad03720d27ddc95687a311bdb100781a2fe59a5f5b1bc0624",
                "dev.tsv": "8c013e21dc39957cac37378d87bebe225b694a0d5fe13eded66c2856628833fd",
                "test.tsv": "3b4df85f7a9a0633574b38d181e18090ac961a24b18fb6bcd74999ddea8ad0b8",
                f"{COLA_RAW}/in_domain_dev.tsv": "2dc8ae5dafcf3a46fa4d4215cd4882c7d05c17e5a7696de4f9c32b29286a530c",
                f"{COLA_RAW}/out_of_domain_dev.tsv": "a95f976e24a27e81d287f224bc07672813b703c3faa399bfdfada5b976854a11",
            },
        ),
        _glue(
            "SST-2",
            7.4,
            "none stated by GLUE; sentences from film reviews",
            "SST-2.zip",
            "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
            {
                "train.tsv": "48eac26399f8456935f81dd9e3a745c1430adb6c62e233ccfe22db4a0d15d1d1",
                "dev.tsv": "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0",
                "test.tsv": "69a938605609b3e6663b4487918fe1565eb293734e6e520d0366d1d412fd2a13",
            },
        ),
        Source(
            "MRPC",
            "Microsoft Research's licence of its paraphrase corpus",
            1.5,
            _files(
                f"{FACEBOOK}/senteval/senteval_data",
                {
                    "msr_paraphrase_train.txt": "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
                    "msr_paraphrase_test.txt": "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
                },
            ),
            f"fetched files: {RECORD.format('glue')}; train.tsv, dev.tsv and test.tsv, built from them: {COPY}",
            build_mrpc,
            # The copy's own train.tsv lacks a row: this is the checksum of the file built from its
            # msr_paraphrase_train.txt.
            {
                "train.tsv": "69abcedee3cf738c6ce58d772e43e1b7cdf5b4edee4aceda459c0d9f4e5599f3",
                "dev.tsv": "9e8f284788040f7c9ecde2e1b3c07237c756f926bd9ef8548ef5d34b56f69f17",
                "test.tsv": "aee460ceda833926b8ab2ad952d399f5cf8bc9335cff19afcac03dc449558622",
            },
        ),
        _glue(
            "STS-B",
            0.8,
            "scores CC BY-SA 4.0, each source of text its own terms; see the LICENSE.txt that comes with it",
            "STS-B.zip",
            "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85",
            {
                "train.tsv": "41c4d978b6162abdcada7e49a982211954cca5459c228db478af333124b257a2",
                "dev.tsv": "fe7dc0632a5033562f3cadff991f6e8d9b9b6311861660e78c3c82eb7db67f59",
                "test.tsv": "16b4223d7d44a644fbc10f1b449472cfe81e1715fb07cf44023b0aa88ce856eb",
                "original/sts-test.tsv": "affe45928a66ee5a708531233c95b7dacbbdc57f974f002a3d32ea0180cf816a",
                "LICENSE.txt": "3dfc3217395f8c5dd05c5f8995f25fe2f8fd258e6dd770b3de480749caee8c70",
                "readme.txt": "e9488363d211c32ca5e912954f16eb9233cfed1b5b4b0475d0d812d35d7c8ef1",
            },
        ),
        _glue(
            "QQP",
            41.7,
            "Quora's terms of service, non-commercial use",
            "QQP-clean.zip",
            "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
        ),
        _glue(
            "MNLI",
            312.8,
            "each source of text its own licence, most of them permissive; see the MultiNLI paper",
            "MNLI.zip",
            "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
            {
                "train.tsv": "",
                "dev_matched.tsv": "",
                "dev_mismatched.tsv": "",
                "test_matched.tsv": "",
                "test_mismatched.tsv": "",
            },
        ),
        _glue(
            "QNLI",
            10.6,
            "none stated by GLUE; made from SQuAD, which is CC BY-SA 4.0",
            "QNLIv2.zip",
            "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
            {
                "train.tsv": "",
                "dev.tsv": "ac19409dcb04631eaaa094bdebdcf621086bc352503dfb6a1a648b614986f4fd",
                "test.tsv": "6d856264e292fa7a7bc7b8e182efa1454ffd9532733c12ad813017dd5b377a5a",
            },
        ),
        _glue(
            "RTE",
            0.7,
            "none stated by GLUE; from the RTE challenges 1, 2, 3 and 5",
            "RTE.zip",
            "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
        ),
        _glue(
            "WNLI",
            0.03,
            "none stated by GLUE; made from the Winograd Schema Challenge",
            "WNLI.zip",
            "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46",
            {
                "train.tsv": "9a88e9d54b6861cc796a088e9acf4f5f65064a9ef65ae6fa7a688b28391e5c9a",
                "dev.tsv": "cba00490596dd14be8cf53b4f53bb744abe3a7b89f81ab210528d80225338ed5",
                "test.tsv": "ff0296817e235bf6f7a230c5f6781bd6ee228a45445f6510831fdef6f2a04766",
            },
        ),
        Source(
            "AX",
            "none stated by GLUE; the diagnostic set, predicted by an MNLI model",
            0.2,
            _files(
                f"{FACEBOOK}/glue/data",
                {"AX.tsv": "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd"},
            ),
            RECORD.format("glue"),
        ),
        Source(
            "ANLI",
            "CC BY-NC 4.0",
            18.7,
            (
                Remote(
                    f"{FACEBOOK}/anli/anli_v1.0.zip",
                    "e5c058f2bb4e6190b0651badca2c590e45db95248f8b28cde674615ee40820bf",
                    {f"{part}/{split}.jsonl": "" for part in ("R1", "R2", "R3") for split in ("train", "dev", "test")},
                    inside="anli_v1.0",
                ),
            ),
            "the one that unrelated public programs on GitHub pin for this archive; its authors publish none",
        ),
        Source(
            "PAWS-QQP",
            "not to be passed on, as Quora's terms cover the text",
            instead="its text may not be passed on, so it cannot be fetched. Get Quora's own question pairs, build"
            " train.tsv and dev_and_test.tsv from them as https://github.com/google-research-datasets/paws says,"
            " and put them into {folder}.",
        ),
        Source(
            "HANS",
            "MIT; for evaluation alone, by a model of MNLI",
            15.5,
            _files(
                f"{GITHUB}/tommccoy1/hans/master",
                {"heuristics_evaluation_set.txt": "c55b62feef9913070e88f38938dc2492018c945ac81f70139346472494124e79"},
            ),
            RECORD.format("hans"),
        ),
        Source(
            "DREAM",
            "for non-commercial research only; see the license.txt that comes with it",
            5.6,
            _files(
                f"{DREAM}/data",
                {
                    "train.json": "90942ddea1b56231a0ad2097dc5f115ce1face1cfb86f029041e5bad38e68566",
                    "dev.json": "9d5af2e580d809c73872a7dd43fe93d0b07c6f6086b04a9a9a1917603009d961",
                    "test.json": "d96d7d0752f7eab1ea8f165a582430f35653c428d36633ab4d7f26fc14946c3a",
                },
            )
            + _files(
                DREAM,
                {"license.txt": "839259b0a970d95153dd6851d281793a574d70f5ce25d05bed4ab9452430b3f7"},
            ),
            ORIGINAL + RECORD.format("dream"),
        ),
        Source(
            "HellaSWAG",
            "MIT",
            71.5,
            _files(
                f"{GITHUB}/rowanz/hellaswag/master/data",
                {
                    "hellaswag_train.jsonl": "dae5e69249868cb9fe4e23ff925c60b66169564cfb7072d793cd7356a2b69f8d",
                    "hellaswag_val.jsonl": "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
                    "hellaswag_test.jsonl": "da082b00543e422b8d25394614d102944586986def4de5cd1bd36d86bcb76261",
                },
            ),
            RECORD.format("hellaswag"),
        ),
        Source(
            "SWAG",
            "see github.com/rowanz/swagaf",
            44.0,
            _files(
                f"{GITHUB}/rowanz/swagaf/master/data",
                {
                    "train.csv": "5748b51126ac255c5a6f26e1ba473b51116d6c822aeb25e63ecba282c9d0e610",
                    "val.csv": "c0497b2cd7f3e6b7df995524b1853f62285d60d110d659b19545ca80b2903234",
                    "test.csv": "a689a1a4e892a65ca625c1f0fcf77bcce004b59ad1caeb134ca5ec080a711cb6",
                },
            ),
            RECORD.format("swag"),
        ),
        Source(
            "WNUT-2017",
            "CC BY 4.0",
            0.8,
            _files(
                WNUT,
                {
                    "wnut17train.conll": "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
                    "emerging.dev.conll": "e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
                    "emerging.test.annotated": "2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
                },
            ),
            ORIGINAL + RECORD.format("wnut_17"),
        ),
        Source(
            "CoNLL-2003",
            "the Reuters corpus is handed out by NIST on a signed agreement",
            instead="its text is Reuters' and cannot be fetched. Get the Reuters corpus from NIST"
            " (https://trec.nist.gov/data/reuters/reuters.html), build eng.train, eng.testa and eng.testb as"
            " https://www.clips.uantwerpen.be/conll2003/ner/ says, and put them into {folder}.",
        ),
        Source(
            "PTB",
            "sold by the Linguistic Data Consortium",
            instead="the Penn Treebank cannot be fetched, it is sold (https://catalog.ldc.upenn.edu/LDC99T42). Write"
            " its words and part-of-speech tags, a word and its tag on each line and an empty line after each sentence,"
            " into train.txt, dev.txt and test.txt in {folder}.",
        ),
        Source(
            "DEMO",
            "none: made by a program of this project",
            instead="there is nothing to fetch: python -m data.demo, with the same --data_dir, makes {folder}.",
        ),
    )
}
