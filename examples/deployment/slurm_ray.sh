#!/usr/bin/env bash
# A simulated federation over several machines: a Ray cluster inside one SLURM job.
#
#   sbatch slurm_ray.sh
#
# The environment, the cache and the folder of the run lie on a disk that all machines see.
#SBATCH --job-name=promptfed-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --output=promptfed-ray-%j.log
set -euo pipefail

VENV=${VENV:-$HOME/promptfed-venv}
RUN=${RUN:-$HOME/runs/thousand}
PORT=${PORT:-6379}
# shellcheck disable=SC1091
source "$VENV/bin/activate"
export RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1 PROMPTFED_CACHE="${PROMPTFED_CACHE:-$HOME/promptfed-cache}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

# Ray reads the token in ~/.ray/auth_token, which is made when it is first begun and is the same on all machines.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$PORT" --num-cpus="$SLURM_CPUS_PER_TASK" \
    --disable-usage-stats --include-dashboard=false --block &
sleep 20
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" \
        ray start --address="$address:$PORT" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
done
sleep 20

if [[ -e "$RUN/run.json" ]]; then
    words=(train --resume "$RUN")
else
    words=(train --task clip-fewshot --method promptfl --clients 1000 --participation 0.05 --rounds 50
        --set task.overlap=true --baselines none --threads 1 --run "$RUN")
fi
# Beside the head's own step, on the same machine.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    promptfed "${words[@]}" --engine ray --ray-address "$address:$PORT"
