#!/usr/bin/env bash
# The MLflow server as a job:   sbatch slurm/mlflow_server.sh     in the folder of the checkout. See docs/mlflow.md.
# Its address and password go to mlflow/server.env, for you alone to read; training finds it wherever it runs with
# TRACKING_URI=mlflow/server.env in slurm/site.env. Its log tells how to see its pages; scancel ends it in order.
# slurm/site.env.example explains MLFLOW_HOME, MLFLOW_DATABASE and others that change folder, database and address.
#SBATCH --job-name=mlflow
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=7-00:00:00
#SBATCH --output=%x-%j.log
# It comes back after its time limit, with the same runs and password:
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
cd "${DIST_CALO_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}" || exit 2
# shellcheck source=/dev/null
if [[ -f slurm/site.env ]]; then source slurm/site.env; fi
# shellcheck source=/dev/null
if [[ -f ${VENV:=.venv}/bin/activate ]]; then source "$VENV/bin/activate"; fi
set -euo pipefail
umask 077
folder=$(realpath -m "${MLFLOW_HOME:-mlflow}") && mkdir -p "$folder/artifacts"
exec 9>"$folder/lock"
again=''
trap 'again=yes; kill "${server:-}" 2>/dev/null || true' USR1
trap 'kill "${server:-}" 2>/dev/null || true' TERM
if ! flock --wait "$([[ ${SLURM_RESTART_COUNT:-0} == 0 ]] && echo 30 || echo 300)" 9; then echo "another server runs on $folder already" >&2 && exit 2; fi
found=$(getent ahostsv4 "$(hostname)" | awk '$1 !~ /^127/ {print $1; exit}' || true)
address=${MLFLOW_ADDRESS:-${found:?no address of $(hostname) that other nodes could reach: set MLFLOW_ADDRESS}}
port=${MLFLOW_PORT:-$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
secret() { [[ -s $1 ]] || python -c 'import secrets; print(secrets.token_urlsafe(24))' >"$1" && cat "$1"; }
publish() {
    printf 'export MLFLOW_TRACKING_%s\n' "URI=$1" USERNAME=admin "PASSWORD=$MLFLOW_AUTH_ADMIN_PASSWORD" >"$folder/.new"
    mv "$folder/.new" "$folder/server.env"
}
# Secrets stay in the environment and in files of mode 600: all users of a node can read its command lines.
printf '[mlflow]\ndefault_permission = READ\ndatabase_uri = %s\n' "sqlite:///$folder/users.db" >"$folder/auth.ini"
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret "$folder/password") MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret "$folder/key")
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_ADMIN_USERNAME=admin
export MLFLOW_AUTH_CONFIG_PATH=$folder/auth.ini MLFLOW_BACKEND_STORE_URI=${MLFLOW_DATABASE:-sqlite:///$folder/mlflow.db}
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
mlflow server --app-name=basic-auth --workers="${MLFLOW_WORKERS:-1}" --host="$address" --port="$port" \
    --allowed-hosts="$address:$port,localhost:*,127.0.0.1:*" --serve-artifacts \
    --artifacts-destination="$folder/artifacts" --uvicorn-opts='--timeout-graceful-shutdown=60 --log-level=warning' &
server=$!
# Only a socket of our own: another user of the node who took the port first would be sent the password.
ours() { awk -v p="$(printf %04X "$port")" -v u="$UID" '$4 == "0A" && $2 ~ p"$" && $8 == u {f = 1} END {exit !f}' < <(cat /proc/net/tcp*); }
until ours || ! kill -0 "$server" 2>/dev/null; do sleep 0.5; done
if kill -0 "$server" 2>/dev/null; then
    publish "http://$address:$port"
    echo "MLflow serves $folder at $address:$port. To see it, run on your machine" \
        "ssh -N -L 5000:$address:$port ${SLURM_SUBMIT_HOST:-LOGIN_NODE}" \
        "and open http://localhost:5000: user admin, password in $folder/password"
fi
if [[ -n $again ]]; then kill "$server" 2>/dev/null || true; fi
while wait "$server" && code=0 || code=$?; kill -0 "$server" 2>/dev/null; do :; done # a signal ends `wait` only
publish ''
echo "MLflow has ended (exit code $code)"
if [[ -n $again && -n ${SLURM_JOB_ID:-} ]]; then scontrol requeue "$SLURM_JOB_ID" && sleep 60; fi
exit "$code"
