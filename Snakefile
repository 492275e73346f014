"""From a set of guessed transition states to verified saddles, one table and figures.

    snakemake --cores 4                                  config/config.yaml
    snakemake --cores 4 --config reactions=my_folder     the same with other structures
    snakemake --cores 2 --configfile FILE                FILE alone, config/config.yaml is not read
    snakemake --profile slurm                            one Slurm job a search
    snakemake --cores 1 -R results/searches/NAME/METHOD.h5     search one again, from the start

Targets and resources only: all science is in the package.
"""

import os
import re
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

# Jobs call `saddleflow`: the one that belongs to this snakemake, whatever PATH says.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
)

try:
    from saddleflow.preflight import prepare_run
except ImportError as error:
    print(
        f"saddleflow: error: this snakemake ({sys.executable}) can't import saddleflow ({error}); "
        "run 'make env' and put .venv/bin first on PATH",
        file=sys.stderr,
    )
    raise SystemExit(2) from None


# A file given by --configfile is the whole configuration; the default one must not shine through it.
if not workflow.config_settings.configfiles and Path("config/config.yaml").exists():

    configfile: "config/config.yaml"


# While another snakemake works here (Snakemake refuses to start a second one only later), its jobs read the
# inputs, so they must not change.  Processes of single jobs must not write them either.
locked = any(Path(".snakemake/locks").glob("*.lock")) and not {
    "--nolock",
    "--unlock",
}.intersection(sys.argv)
plan = prepare_run(
    config,
    main_process=workflow.is_main_process and not locked,
    config_files=workflow.configfiles,
)
RESULTS = str(Path(plan.results))


wildcard_constraints:
    reaction="|".join(map(re.escape, plan.reaction_names)),
    method="|".join(map(re.escape, plan.method_names)),


report: "workflow/report/workflow.rst"


localrules:
    all,
    summarise,
    figures,


include: "workflow/rules/targets.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/learn.smk"
include: "workflow/rules/verify.smk"
include: "workflow/rules/aggregate.smk"


rule all:
    default_target: True
    input:
        final_output(),
    message:
        f"Done: {RESULTS}/summary.csv, {RESULTS}/figures/, run files in {RESULTS}/searches/"


onerror:
    # Snakemake runs nothing that depends on a failed job; the table has to come all the same, with the
    # failed searches as rows.
    # tools/leaderboard.py stops a run when its time is over and makes the table itself.
    log_file = f"{RESULTS}/logs/after_failure.log"
    if os.environ.get("SADDLEFLOW_TABLE") != "later":
        shell(
            "mkdir -p {RESULTS:q}/logs && {{ saddleflow summarise {RESULTS:q} && saddleflow figures {RESULTS:q}; }}"
            " > {log_file:q} 2>&1"
            " && echo 'Some jobs failed. The table of all searches, failed ones included: '{RESULTS:q}/summary.csv >&2"
            " || echo 'Some jobs failed, and the table could not be made: see '{log_file:q} >&2"
        )
