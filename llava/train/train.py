r"""Fine-tune a LLaVA on conversation records whose answers are masks written as text.

    python -m llava.train.train --model_name_or_path BASE --data_path train.json --image_folder DIR \
        --output_dir OUT
    torchrun --nproc_per_node 8 -m llava.train.train ... --deepspeed scripts/zero2.json

Flags have LLaVA's names (--help lists them); scripts/v1_5/finetune_lora.sh gives the published values.
OUT holds the adapter, `projector.safetensors`, the processor, `segmentation.json` and `training.json`. A run
that was killed goes on with the same command and --resume, and ends with the weights of an unbroken run.
SIGTERM, SIGUSR1 or Ctrl-C let it finish the step, save a checkpoint and exit with code 75.

--data_path takes record files, or a mixture file (scripts/v1_5/mixtures/*.yaml), or stores of the builders;
records of a store are drawn anew in every epoch, with the grid and the codec of the checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from transformers import LlavaForConditionalGeneration, TrainingArguments, set_seed

from llava.files import write_text_atomic
from llava.model.checkpoint import load_base, load_processor
from llava.model.new_tokens import add_brick_tokens, brick_token_ids, make_room, start_rows
from llava.settings import BRICKS, SegmentationSettings
from llava.train.arguments import Arguments, RunArguments, parse, training_arguments
from llava.train.batch import Collator, CollatorWithImage, PackedCollator, check_packing, make_collator
from llava.train.checkpoints import check_agreement, last_whole_checkpoint
from llava.train.checks import refuse, together, token_problems
from llava.train.data import TrainingData, load_data
from llava.train.dataset import blank_features
from llava.train.engine import (
    Engine,
    choose_engine,
    pass_samples,
    run_on_cpu,
    start_deepspeed_on_cpu,
    zero_stage,
)
from llava.train.fsdp import ShardedTrainer
from llava.train.lora import parameter_groups, quantization
from llava.train.preview import Previews, choose_examples
from llava.train.resolve import Resolved, read_base, resolve
from llava.train.stop import STOPPED
from llava.train.trainable import mark_trained, rates_of, save_trainable, table_text, trainable_table
from llava.train.trainer import MaskTextTrainer

RUN_FILE = "training.json"
WEIGHTS = ("checkpoint-*", "adapter_model.*", "model*.safetensors")
"""What a run leaves in its output folder that must not be lost."""
log = logging.getLogger("llava.train")


@dataclass(frozen=True)
class Plan:
    """A run that has passed every check and has read no weights.

    Attributes:
        arguments: what was asked for.
        resolved: settings of the checkpoint to come.
        processor: the base's.
        data: samples to train on, with their lengths.
        checkpoint: where to go on; None starts from the base.
        engine: processes, precision and attention of the run.
        previews: shows what the model has learnt; None shows nothing.
        added: tokens of the codec that the base's tokenizer did not know and `processor` does.
    """

    arguments: Arguments
    resolved: Resolved
    processor: Any
    data: TrainingData
    checkpoint: Path | None
    engine: Engine
    previews: Previews | None = None
    added: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What must be the same when the run is resumed."""
        flags = {f"--{name}": value for name, value in self.arguments.fixed().items()}
        engine = {"number of processes": self.engine.processes, "precision": self.engine.precision}
        return flags | self.data.facts | engine


def prepare(argv: Sequence[str]) -> Plan:
    """Check everything that can be checked without weights.

    Raises:
        ValueError: wrong flags, records that do not fit the base, or an output folder of another run.
        FileNotFoundError: images are missing.
    """
    arguments = parse(argv)
    data, run = arguments.data, arguments.run
    engine = choose_engine(arguments.model, run)
    log.info("engine:\n%s", engine.table(pass_samples(run) * (run.gradient_accumulation_steps or 1)))
    base = read_base(arguments.model.model_name_or_path)
    resolved, checkpoint, _ = together(
        lambda: resolve(arguments.model, base, data.model_max_length),
        lambda: _place_to_resume(Path(run.output_dir), run.resume),
        lambda: check_packing(base.config, engine.attention) if data.packing else None,
    )
    refuse(token_problems(arguments.model, run, resolved.settings.codec))
    log.info("settings of %s:\n%s", arguments.model.model_name_or_path, resolved.table())
    processor = load_processor(arguments.model.model_name_or_path)
    if arguments.model.max_pixels is not None:
        base.backbone.cap_pixels(processor, arguments.model.max_pixels, resolved.settings)
    bricks = resolved.settings.codec == BRICKS
    added = add_brick_tokens(processor.tokenizer) if bricks else []
    training_data = load_data(data, resolved, processor, seed=run.seed)
    log.info("%s", training_data.note)
    previews = _previews(run, training_data)
    plan = Plan(
        arguments, resolved, processor, training_data, checkpoint, engine, previews, added=tuple(added)
    )
    _refuse_other_run(plan)
    return plan


def _previews(run: RunArguments, data: TrainingData) -> Previews | None:
    """Examples to ask about every now and then, if they are asked for."""
    if not run.preview_steps:
        return None
    examples = choose_examples(data.dataset, run.preview_samples, seed=run.seed, path=run.preview_data)
    return Previews(examples, run.preview_steps, Path(run.output_dir))


def _place_to_resume(output_dir: Path, resume: bool) -> Path | None:
    """Checkpoint to go on from; weights in the output folder are never written over without --resume."""
    if resume:
        checkpoint = last_whole_checkpoint(output_dir)
        log.info("resuming from %s", checkpoint or "the start: no whole checkpoint yet")
        return checkpoint
    if any(found for pattern in WEIGHTS for found in output_dir.glob(pattern)):
        raise ValueError(
            f"--output_dir {output_dir} already holds a training run; add --resume to go on with it, "
            "or choose another folder"
        )
    return None


def _refuse_other_run(plan: Plan) -> None:
    """Raise if the checkpoint to go on from was made with other flags or data."""
    path = Path(plan.arguments.run.output_dir, RUN_FILE)
    if plan.checkpoint is None or not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))["facts"]
    now = json.loads(json.dumps(plan.facts()))
    changed = [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"--resume: the run in {path.parent} was started otherwise; repeat its command, or choose "
            "another folder:\n" + "\n".join(f"- {change}" for change in changed)
        )


def build_model(plan: Plan) -> PeftModel | LlavaForConditionalGeneration:
    """The base with the parts to train marked; adapters come from the seed."""
    asked, run, tokenizer = plan.arguments.model, plan.arguments.run, plan.processor.tokenizer
    dtype, attention = plan.engine.dtype, plan.engine.attention
    model: Any = load_base(
        asked.model_name_or_path, dtype=dtype, attn=attention, quantization=quantization(asked.bits, dtype)
    ).model
    make_room(model, tokenizer)
    start_rows(model, tokenizer, plan.added)
    set_seed(run.seed)
    if run.gradient_checkpointing:
        model.enable_input_require_grads()
        recompute_activations(model)
    bricks = plan.resolved.settings.codec == BRICKS
    return mark_trained(model, asked, brick_token_ids(tokenizer) if bricks else ())


def recompute_activations(model: Any) -> None:  # noqa: ANN401
    """Turn on gradient checkpointing under the name that this version of transformers has for it."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def new_settings(plan: Plan) -> SegmentationSettings:
    """Settings of the run with the facts of its training."""
    facts = {
        "command": shlex.join(["python", "-m", "llava.train.train", *plan.arguments.argv]),
        "base": plan.arguments.model.model_name_or_path,
        "seed": plan.arguments.run.seed,
        "records": len(plan.data.dataset),
        "skipped": plan.data.skipped,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
    }
    return replace(plan.resolved.settings, training=facts)


def _collator(plan: Plan, hidden_size: int) -> Collator | PackedCollator | CollatorWithImage:
    """How batches of the run are put together, for a language model of that width."""
    tokenizer, data = plan.processor.tokenizer, plan.arguments.data
    collator = make_collator(
        tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        packing=data.packing,
        row_tokens=data.packing_length,
        attention=plan.engine.attention,
        hidden_size=hidden_size,
    )
    run = plan.arguments.run
    is_split = run.fsdp or (run.deepspeed is not None and zero_stage(run.deepspeed) == 3)
    if not is_split:
        return collator
    return CollatorWithImage(collator, blank_features(plan.processor, plan.resolved.settings))


def build_trainer(plan: Plan, args: TrainingArguments) -> MaskTextTrainer:
    """Model, data and optimizer of a plan, put together."""
    settings = new_settings(plan)
    data, rates = plan.arguments.data, rates_of(plan.arguments.model, plan.arguments.run)
    model = build_model(plan)
    table = trainable_table(model, parameter_groups(model, rates))
    log.info("what is trained:\n%s", table_text(table))
    if args.should_save:
        save_trainable(table, Path(plan.arguments.run.output_dir))
    trainer = ShardedTrainer if plan.arguments.run.fsdp else MaskTextTrainer
    return trainer(
        model,
        args,
        train_dataset=plan.data.dataset,
        collator=_collator(plan, model.config.get_text_config().hidden_size),
        processor=plan.processor,
        settings=settings,
        lengths=plan.data.lengths,
        options={
            "rates": rates,
            "grouped": data.group_by_modality_length,
            "report": plan.data.report,
            "previews": plan.previews,
        },
    )


def set_up(plan: Plan) -> MaskTextTrainer:
    """Trainer of a plan, its weights read.

    Raises:
        ValueError: the processes disagree on where to go on, or the base's weights do not fit.
        FileNotFoundError: weights are missing.
    """
    run = plan.arguments.run
    args = training_arguments(plan.arguments)
    if run.deepspeed and run_on_cpu(run):
        start_deepspeed_on_cpu()
    check_agreement(plan.checkpoint)
    if args.should_save:
        written = {"facts": plan.facts(), "command": new_settings(plan).training["command"]}
        write_text_atomic(Path(run.output_dir, RUN_FILE), json.dumps(written, indent=2) + "\n")
    return build_trainer(plan, args)


def carry_out(plan: Plan, trainer: MaskTextTrainer) -> None:
    """Train and save what came out, or stop with a checkpoint where a signal asks for it.

    The trainer's `stop.stopped` tells which.
    """
    with trainer.stop_request:
        trainer.train(resume_from_checkpoint=str(plan.checkpoint) if plan.checkpoint else None)
        if trainer.stop.stopped:
            log.info("stopped after step %d; go on with --resume", trainer.state.global_step)
        else:
            trainer.save_model()
            log.info("saved %s", plan.arguments.run.output_dir)


def train(plan: Plan) -> MaskTextTrainer:
    """The trainer of a plan that was carried out."""
    trainer = set_up(plan)
    carry_out(plan, trainer)
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: a wrong setting or base ends with a sentence, a crash in training with its traceback."""
    first = int(os.environ.get("RANK", "0")) == 0
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    try:
        plan = prepare(sys.argv[1:] if argv is None else argv)
        trainer = set_up(plan)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    carry_out(plan, trainer)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if trainer.stop.stopped:
        raise SystemExit(STOPPED)


if __name__ == "__main__":
    main()
