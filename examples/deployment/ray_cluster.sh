#!/usr/bin/env bash
# A Ray cluster by hand, on machines that trust each other in a closed network.
#
#   ray_cluster.sh head                  on the first machine; prints the address
#   ray_cluster.sh worker ADDRESS        on every other machine
#   ray_cluster.sh train ADDRESS RUN     on the first machine: begin the run, or go on with it
#   ray_cluster.sh stop                  on every machine
#
# Copy ~/.ray/auth_token from the first machine to the others before they join: whoever may talk to Ray may run programs.
set -euo pipefail

PORT=${PORT:-6379}
export RAY_USAGE_STATS_ENABLED=0

case "${1:-}" in
head)
    address=$(hostname --ip-address | awk '{print $1}')
    ray start --head --node-ip-address="$address" --port="$PORT" --disable-usage-stats --include-dashboard=false
    echo "$address:$PORT"
    ;;
worker)
    ray start --address="$2" --disable-usage-stats
    ;;
train)
    if [[ -e "$3/run.json" ]]; then
        promptfed train --resume "$3" --engine ray --ray-address "$2"
    else
        promptfed train --clients 1000 --participation 0.05 --rounds 50 --set task.overlap=true --baselines none \
            --threads 1 --engine ray --ray-address "$2" --run "$3"
    fi
    ;;
stop)
    ray stop
    ;;
*)
    sed -n '2,9p' "$0"
    exit 2
    ;;
esac
