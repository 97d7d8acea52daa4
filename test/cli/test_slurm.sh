#!/usr/bin/env bash
# The script of `ptq-host slurm` in a real Slurm: controller and daemon on this machine. A job is
# killed and submitted again, and the results are those of one process. Skipped without Slurm
# (Debian: slurm-wlm, munge).
# shellcheck source=test/cli/common.bash
. test/cli/common.bash
for program in slurmctld slurmd sbatch squeue munged; do
  PATH=$PATH:/usr/sbin command -v "$program" >/dev/null ||
    { echo "skipped: no $program here"; exit 77; }
done
[ "$(id -u)" -eq 0 ] || { echo "skipped: slurmd needs root"; exit 77; }
PATH=$PATH:/usr/sbin
slurm=$work/slurm
mkdir -p "$slurm"/{state,spool,munge}
chmod 755 "$work" "$slurm"

# Everything in one folder, on ports of its own.
port=$((20000 + RANDOM % 20000))
dd if=/dev/urandom of="$slurm/munge.key" bs=128 count=1 2>/dev/null
chmod 600 "$slurm/munge.key"
cat >"$slurm/slurm.conf" <<CONF
ClusterName=ptq
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$slurm/munge/socket
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
MinJobAge=600
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$slurm/slurm.conf
stop_slurm() {
  for daemon in slurmd slurmctld munged; do
    [ -f "$slurm/$daemon.pid" ] && kill "$(cat "$slurm/$daemon.pid")" 2>/dev/null
  done
  sleep 0.5
  rm -rf "$work"
}
trap stop_slurm EXIT
munged --key-file="$slurm/munge.key" --socket="$slurm/munge/socket" --pid-file="$slurm/munged.pid" \
  --log-file="$slurm/munged.log" --seed-file="$slurm/munge/seed" --force 2>"$slurm/munged.err" ||
  { echo "skipped: munged does not start here"; cat "$slurm/munged.err"; exit 77; }
slurmctld -f "$SLURM_CONF" 2>"$slurm/ctld.err" && slurmd -f "$SLURM_CONF" 2>"$slurm/d.err"
for _ in $(seq 100); do
  sinfo -h -o %T 2>/dev/null | grep -q idle && break
  sleep 0.1
done
sinfo -h -o %T 2>/dev/null | grep -q idle ||
  { echo "skipped: no node of Slurm gets ready here"; tail -n 5 "$slurm"/*.log "$slurm"/*.err; exit 77; }

experiment fp16 kivi q4_0 q8_0 rtn | sed 's/^max_windows.*/max_windows = 8/' >"$work/e.toml"
run 0 slurm "$work/e.toml" --out "$work/results" --tasks 3 --cpus 1 --memory 1 --task-minutes 1
cp "$work/out" "$work/grid.sh"
grep -q '^#SBATCH --array=1-3$' "$work/grid.sh" || fail "not an array of three"
grep -Eq '\b(srun|squeue)\b' "$work/grid.sh" && fail "the script polls"
bash -n "$work/grid.sh" || fail "the script is no shell script"
sed -i '/--mem=/d' "$work/grid.sh" # this small Slurm does not count memory

# Ends when no task of the job is waiting or at work.
finished() {
  for _ in $(seq 600); do
    [ -z "$(squeue -h -j "$1" 2>/dev/null)" ] && return
    sleep 0.2
  done
  fail "job $1 does not end"
  squeue -j "$1"
}

job=$(sbatch --parsable "$work/grid.sh") || fail "sbatch"
for _ in $(seq 200); do # a task is killed at work
  [ -n "$(ls "$work/results/claims" 2>/dev/null)" ] && break
  sleep 0.05
done
scancel --signal=KILL --full "${job}_1" 2>/dev/null
finished "$job"
second=$(sbatch --parsable "$work/grid.sh") || fail "sbatch again"
finished "$second"
[ "$(ls -d "$work"/results/*__perplexity-* | wc -l)" -eq 5 ] || {
  fail "not all cells are there"
  tail -n 5 "$work"/results/*.log
}
run 0 "$work/e.toml" --out "$work/alone"
python3 bench/same_records.py "$work/alone" "$work/results" || fail "the numbers differ"
run 0 "$work/e.toml" --out "$work/results"
says err "0 cells computed, 5 kept"
finish
