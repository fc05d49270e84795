#!/usr/bin/env bash
# What a pod does when Kubernetes wants it gone (preStop), before Ray is told: a driver drains, and
# replicas work on, committing parts, until their driver has ended them or the grace period is over.
# The brackets keep the patterns from matching this script. Ray shows the actors of its pools as
# MapWorker.
set -u
driver='bin/[m]usicgen-batch (run|retry)'
replica='ray::[M]apWorker'
pkill -TERM -f "$driver"
while pgrep -f "$driver|$replica" > /dev/null; do
    sleep 1
done
