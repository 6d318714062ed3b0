"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) by ``trl``, as a reference: not our own."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from preference_costs import Spent, metered, once

from contrans_lens.models.plain import blocks, open_plain
from contrans_lens.rahf.adapters import lora_config
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from contrans_lens.texts import PreferenceSet

BETA = 0.1


def train_dpo(
    base: Path, preferences: PreferenceSet, out: Path, training: TrainingSettings, lora: LoraSettings
) -> tuple[Path, Spent]:
    """Train an adapter of the same shape on the same pairs with ``trl.DPOTrainer``; a finished one is taken.

    The reference's log-probabilities are computed once for every pair. ``trl`` ends each answer with EOS.

    Args:
        base: folder of the base model.
        preferences: the pairs.
        out: folder of the adapter.
        training: steps, batch, rate, seed.
        lora: the adapter.

    Returns:
        The adapter's folder and what it took.
    """
    cost = once(out / "cost.json", lambda: _train(base, preferences, out, training, lora).to_dict())
    return out, Spent(**cost)


def _train(base: Path, preferences: PreferenceSet, out: Path, training: TrainingSettings, lora: LoraSettings) -> Spent:
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from trl import DPOConfig, DPOTrainer

    disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    plain = open_plain(base, device="cpu")
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in preferences]
    # Its bars are not all switched off by its settings.
    said = io.StringIO()
    quiet = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), quiet[0], quiet[1]:
        warnings.simplefilter("ignore")
        settings = DPOConfig(
            output_dir=str(out / "trainer"),
            max_steps=training.steps,
            per_device_train_batch_size=training.batch_size,
            gradient_accumulation_steps=training.accumulation,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.schedule,
            beta=BETA,
            seed=training.seed,
            precompute_ref_log_probs=True,
            max_length=plain.context,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        )
        with metered("dpo", blocks(plain.model)) as spent:
            trainer = DPOTrainer(
                model=plain.model,
                args=settings,
                train_dataset=Dataset.from_list(rows),
                processing_class=plain.tokenizer,
                peft_config=lora_config(plain.model, lora),
            )
            trainer.train()
        trainer.model.save_pretrained(str(out))
    return spent
