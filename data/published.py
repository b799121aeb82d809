"""Published scores that were checked at their source. Only these may be quoted."""

from dataclasses import dataclass
from types import MappingProxyType

SERVER = "GLUE server"  # test sets without public labels: not comparable with dev scores


@dataclass(frozen=True)
class Published:
    """A row of a published table.

    scores: task -> score in per cent, in the task's primary metric.
    scored_on: task -> the set that was scored; missing if the source does not say.
    """

    encoder: str
    method: str
    source: str
    scores: MappingProxyType
    scored_on: MappingProxyType


ASA = "Wu et al., AAAI 2023"
ASA_SETS = MappingProxyType({**dict.fromkeys(("SST-2", "MNLI", "QNLI", "QQP", "STS-B"), SERVER), "DREAM": "test"})
TASKS = ("SST-2", "MNLI", "QNLI", "QQP", "STS-B", "WNUT-2017", "DREAM")


def _scores(*scores: float) -> MappingProxyType:
    return MappingProxyType(dict(zip(TASKS, scores, strict=False)))


# MNLI: the matched set. QQP: F1. STS-B: Spearman. WNUT-2017: F1 over words, without O.
PUBLISHED = (
    Published(
        "bert-base-uncased", "naive", "Devlin et al., NAACL 2019", _scores(93.5, 84.6, 90.5, 71.2, 85.8), ASA_SETS
    ),
    Published("bert-base-uncased", "asa", ASA, _scores(94.1, 85.0, 91.4, 72.3, 86.5, 49.8, 64.3), ASA_SETS),
    Published("roberta-base", "asa", ASA, _scores(96.3, 88.0, 93.6, 73.7, 89.2, 57.3, 69.2), ASA_SETS),
)


def published(encoder: str, method: str, task: str) -> str:
    """The published score and its source; "" if there is none. `encoder`: its name on the Hub, or a folder so named."""
    for row in PUBLISHED:
        if (row.encoder, row.method) == (encoder.rstrip("/").rpartition("/")[2], method) and task in row.scores:
            where = ", ".join(filter(None, (row.scored_on.get(task), row.source)))
            return f"{row.scores[task]} ({where})"
    return ""
