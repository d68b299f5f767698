"""xenbw metrics: print the metrics that the daemon writes for node_exporter."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from xenbw.cli.accounts import freshen, roster
from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import say, warn
from xenbw.clock import boot_id
from xenbw.errors import XenbwError
from xenbw.ledger import outbox, unmetered
from xenbw.report import metrics
from xenbw.report.metrics import Sample, VifSample
from xenbw.rundir import control
from xenbw.rundir.control import Answer


def arguments(_parser: ArgumentParser) -> None:
    """It has none."""


def run(_options: Namespace, context: Context) -> int:
    stale, status = freshen(context), _status(context)
    with context.ledger() as ledger:
        vms, here = roster(ledger, context), boot_id()
        sample = Sample(
            context.clock.tick().wall,
            vms.entries,
            vms.usage(),
            [
                VifSample(vif.vm_id, vif.domid, vif.devid, vif.kind, vif.counted)
                for vif in ledger.live_bindings().values()
                if vif.boot_id == here
            ],
            unmetered.known(ledger, here),
            status,
            {channel.value: found.count for channel, found in outbox.waiting_by_channel(ledger).items()},
        )
    say(metrics.text(sample).rstrip("\n"))
    if stale:
        warn(f"note: {stale}")
    return 0


def _status(context: Context) -> Answer | None:
    try:
        return control.ask(context.settings.daemon.run_dir, "status")
    except XenbwError:
        return None


COMMAND = Command(arguments, run)
