#!/usr/bin/env bash
# Starts a one-node Ceph with its S3 gateway on 127.0.0.1: a monitor, one OSD in memory, radosgw.
# Everything it holds is below FOLDER; its daemons are the pids in FOLDER/run/*.pid, and a reader
# of FOLDER/log sees why one of them did not start.
#
#   ceph_up.sh FOLDER S3_PORT MON_PORT ACCESS_KEY SECRET_KEY
set -euo pipefail
folder=$1 s3_port=$2 mon_port=$3 access_key=$4 secret_key=$5

mkdir -p "$folder"/{mon,osd,rgw,run,log}
fsid=$(cat /proc/sys/kernel/random/uuid)
export CEPH_CONF=$folder/ceph.conf

# `crc secure`: without it radosgw never gets past the monitor when cephx is off.
# `paxos propose interval`: 1 s by default, for each of a dozen changes on the way up.
# `tcp_nodelay`: without it every small GET takes 40 ms.
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$mon_port]
mon initial members = a
public addr = 127.0.0.1
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv6 = false
ms mon client mode = crc secure
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd heartbeat grace = 60
osd objectstore = memstore
memstore device bytes = 2147483648
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon tick interval = 1
paxos propose interval = 0.02
paxos min wait = 0.01
mon data = $folder/mon
osd data = $folder/osd
rgw data = $folder/rgw
keyring = $folder/keyring
run dir = $folder/run
log file = $folder/log/\$name.log
pid file = $folder/run/\$name.pid
admin socket = $folder/run/\$name.asok
rgw frontends = beast endpoint=127.0.0.1:$s3_port tcp_nodelay=1
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable usage log = false
rgw dynamic resharding = false
rgw thread pool size = 32
CONF

wait_for() { # TRIES COMMAND...
  local tries=$1
  shift
  for _ in $(seq "$tries"); do
    "$@" && return
    sleep 0.2
  done
  echo "ceph_up.sh: gave up waiting for: $*; see $folder/log" >&2
  return 1
}
osd_is_up() { timeout 10 ceph osd stat 2>/dev/null | grep -q "1 up"; }
gateway_answers() { (echo >"/dev/tcp/127.0.0.1/$s3_port") 2>/dev/null; }

monmaptool --create --clobber --addv a "[v2:127.0.0.1:$mon_port]" --fsid "$fsid" "$folder/monmap" >"$folder/log/monmap"
ceph-authtool --create-keyring "$folder/keyring" --gen-key -n mon. --cap mon "allow *" >"$folder/log/keyring"
ceph-authtool "$folder/keyring" --gen-key -n client.admin \
  --cap mon "allow *" --cap osd "allow *" --cap mgr "allow *" >>"$folder/log/keyring"

ceph-mon -i a --mkfs --monmap "$folder/monmap" --keyring "$folder/keyring"
ceph-mon -i a
osd_id=$(cat /proc/sys/kernel/random/uuid)
timeout 60 ceph osd new "$osd_id" >"$folder/log/osd-new"
ceph-osd -i 0 --mkfs --osd-uuid "$osd_id" 2>"$folder/log/osd-mkfs"
ceph-osd -i 0 >"$folder/log/osd-start"
wait_for 150 osd_is_up

radosgw -n client.admin --pid-file "$folder/run/rgw.pid" --log-file "$folder/log/rgw.log"
radosgw-admin user create --uid=tests --display-name=tests \
  --access-key="$access_key" --secret="$secret_key" >"$folder/log/user" 2>&1
wait_for 300 gateway_answers
