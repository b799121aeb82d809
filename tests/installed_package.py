"""Whether the installed package does its work with PyTorch and transformers alone: run in a fresh environment, from
outside the checkout (`make package`)."""

import sys

import torch
from adversarial_self_attention import AsaModel, RDrop
from transformers import AutoConfig, AutoModelForSequenceClassification


def batch_of(padded_to: int) -> dict[str, torch.Tensor]:
    """Two rows, of seven and of four tokens."""
    ids = torch.zeros(2, padded_to, dtype=torch.long)
    ids[0, :7], ids[1, :4] = torch.arange(5, 12), torch.arange(8, 12)
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": torch.tensor([0, 2])}


def main() -> None:
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "num_labels": 3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = AutoConfig.for_model("bert", **sizes)
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        backbone = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).double()
        plain = backbone.eval()(**batch_of(7)).logits
        model = AsaModel(backbone, tau=0.5)
        assert torch.equal(model.eval()(**batch_of(7)).logits, plain)
        losses = []
        for padded_to in (7, 12):
            model.train().zero_grad()
            output = model(**batch_of(padded_to))
            output.loss.backward()
            losses.append(output.loss)
            whole = output.task_loss + output.divergence + 0.25 * output.penalty
            torch.testing.assert_close(output.loss, whole)
            assert all(adversary.query.weight.grad.norm() > 0 for adversary in model.adversaries)
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
        RDrop(backbone, alpha=1.0).train()(**batch_of(7)).loss.backward()
    ours = sorted(name for name in sys.modules if name.partition(".")[0] in ("models", "data", "training", "utils"))
    assert ours == [], f"modules of the checkout were imported: {ours}"
    print("the installed package works")


if __name__ == "__main__":
    main()
