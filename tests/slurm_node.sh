#!/bin/sh
# A Slurm of one node, for tests:  unshare --pid --fork --mount-proc --kill-child sh tests/slurm_node.sh FOLDER PORT PORT
# It is the first process of a namespace, so that all others end with it: when its standard input ends, or it is killed.
# The node says that it has 16 cores, 128 GB and two GPUs, which are empty files: jobs ask for them as on a cluster.
set -eu
folder=$1
host=$(hostname -s) user=$(id -un) PATH=$PATH:/usr/sbin:/sbin
cd "$folder"
mkdir state spool
touch gpu0 gpu1
cat > slurm.conf <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$2
SlurmdPort=$3
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 RealMemory=128000 Gres=gpu:2
PartitionName=gpus Default=YES Nodes=$host
END
echo "Name=gpu File=$folder/gpu[0-1]" > gres.conf
mount --bind "$folder" /etc/slurm     # where commands inside a job look for it: the plugin drops SLURM_CONF there
(umask 077 && head -c 1024 /dev/urandom > munge.key)
munged --foreground --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" &
until [ -S munge.socket ]; do kill -0 $! && sleep 0.1 || exit; done
slurmctld -D &
slurmd -D &
exec cat
