#!/usr/bin/env bash
# A simulated federation as one SLURM job on one machine:
#
#   sbatch slurm.sh
#
# A job that reaches its time limit is told two minutes before, and saves what is trained. Submit it again, and
# it goes on after the last whole round.
#SBATCH --job-name=promptfed
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=promptfed-%j.log
set -euo pipefail

VENV=${VENV:-$HOME/promptfed-venv}
RUN=${RUN:-$HOME/runs/hospitals}
# shellcheck disable=SC1091
source "$VENV/bin/activate"
export HF_HUB_OFFLINE=1 PROMPTFED_CACHE="${PROMPTFED_CACHE:-$HOME/promptfed-cache}"

if [[ -e "$RUN/run.json" ]]; then
    words=(train --resume "$RUN")
else
    words=(train --task clip-fewshot --method promptfl --clients 64 --rounds 50 --threads 8 --run "$RUN")
fi
promptfed "${words[@]}" &
training=$!
trap 'kill -TERM "$training"' TERM # the batch shell gets the signal of SLURM, and hands it on
wait "$training" || wait "$training"
