"""Invoke's collection of all tasks. The tasks themselves are in bakehouse/tasks/."""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until a task listens, Ctrl-C ends us without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from invoke.collection import Collection

from bakehouse.tasks import channels, checkout, images, local, machines, program

program.strict()

ns = Collection(
    *(
        images.bake,
        images.prove,
        machines.launch,
        machines.probe,
        checkout.new_recipe,
        machines.ssh,
        machines.password,
        machines.open_,
        machines.machines_,
        images.images_,
        channels.promote,
        channels.rollback,
        channels.channels_,
        channels.outputs,
        images.show,
        images.diff,
        images.copy,
        images.share,
        images.unshare,
        machines.terminate,
        channels.retire,
        channels.revoke,
        channels.restore,
        channels.cleanup,
        checkout.doctor,
        checkout.policy,
        checkout.lint,
        checkout.test,
        checkout.try_role,
        checkout.bench,
    ),
    Collection("local", local.up, local.env, local.down, local.status, local.reset),
)

if __name__ == "__main__":
    program.CommandLine(ns).run()
