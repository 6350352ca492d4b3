#!/usr/bin/env bash
# The docker command, as people and agents type it.
set -uo pipefail
# shellcheck source=tests/clients/drive/steps.sh
. "$CLIENTS/drive/steps.sh"

image=$CLIENTS_IMAGE
export image
# Builds go through BuildKit only where its plugin is there: the classic builder is asked for.
export DOCKER_BUILDKIT=0
end() { docker rm -f cli-main cli-web cli-term cli-server cli-health >/dev/null 2>&1; }
trap end EXIT
end

step version '^[0-9]+\.' docker version --format '{{.Server.Version}}'
step info 'Server Version' docker info
step images 'imgforge-clients/task' docker images
step 'image inspect' 'linux' docker image inspect -f '{{.Os}}' "$image"
step history '.' docker history "$image"

step run '^hello$' docker run --rm "$image" echo hello
line 'run -i' '^from stdin$' 'echo from stdin | docker run --rm -i $image cat'
ends 7 'run, exit code' '' docker run --rm "$image" sh -c 'exit 7'
ends 127 'run, no such program' 'executable file not found' docker run --rm "$image" nosuch
ends 125 'run, no such image' 'imgforge-clients/nosuch' docker run --rm imgforge-clients/nosuch:1 true
ends 1 'pull, no such image' '.' docker pull imgforge-clients/nosuch:1
# Docker tells a terminal its size a moment after the command has started.
line 'run -it' '40 100' "script -qec 'stty cols 100 rows 40; docker run --rm -it $image sh -c \"sleep 1; stty size\"' /dev/null"
step 'run --read-only --tmpfs --user' '^1000$' docker run --rm --read-only --tmpfs /tmp \
    --user 1000:1000 "$image" sh -c '! touch /x 2>/dev/null && touch /tmp/y && id -u'
step 'run -v' '^bound$' sh -c 'echo bound >bound.txt && docker run --rm -v "$PWD:/mnt:ro" "$image" cat /mnt/bound.txt'
step 'run --env-file, -w, --hostname' '^1 /tmp box$' sh -c 'echo A=1 >env.txt &&
    docker run --rm --env-file env.txt -w /tmp --hostname box "$image" sh -c "echo \$A \$PWD \$(hostname)"'
step 'run --entrypoint' '^entered$' docker run --rm --entrypoint echo "$image" entered
step 'run --memory --pids-limit --ulimit' '^64$' docker run --rm --memory 256m --pids-limit 100 \
    --ulimit nofile=64:64 "$image" sh -c 'ulimit -n'

step 'run -d' '^[0-9a-f]{64}$' docker run -d --name cli-main -w /testbed "$image" sleep 2h
step ps 'cli-main' docker ps --filter name=cli-main --format '{{.Names}} {{.Status}}'
ends 3 'exec -w -e' '^/testbed b$' docker exec -w /testbed -e A=b cli-main bash -lc 'echo $PWD $A; exit 3'
line 'exec -i' '^in$' 'echo in | docker exec -i cli-main cat'
step 'exec -u number' 'uid=1000' docker exec -u 1000 cli-main id
step 'exec -u name' 'uid=65534' docker exec -u nobody cli-main id
# Docker ends with 126 up to version 20, and with 127 since.
ends '126|127' 'exec, no such program' 'executable file not found' docker exec cli-main nosuch
ends 126 'exec, no such user' 'unable to find user nosuch' docker exec -u nosuch cli-main true
line 'exec -it' '30 90' "script -qec 'stty cols 90 rows 30; docker exec -it cli-main sh -c \"sleep 1; stty size\"' /dev/null"
step 'exec -d' '' docker exec -d cli-main touch /tmp/detached
step inspect '^true running$' docker inspect -f '{{.State.Running}} {{.State.Status}}' cli-main
line 'cp in' '^copied$' 'echo copied >in.txt && docker cp -q in.txt cli-main:/tmp/ && docker exec cli-main cat /tmp/in.txt'
line 'cp out' 'def add' 'docker cp -q cli-main:/testbed/calc.py out.py && cat out.py'
line 'cp -, tar' 'testbed/calc.py' 'docker cp cli-main:/testbed - | tar t'
ends 1 'cp, no such file' 'find the file|no such file' docker cp cli-main:/nosuch .
step top 'sleep 2h' docker top cli-main
step diff '^A /tmp/in.txt$' docker diff cli-main
step pause 'cli-main' docker pause cli-main
ends 1 'exec while paused' 'paused' docker exec cli-main true
step unpause 'cli-main' docker unpause cli-main
step commit 'sha256' docker commit cli-main imgforge-clients/snap:1
step 'run of a commit' '^copied$' docker run --rm imgforge-clients/snap:1 cat /tmp/in.txt
line 'commit -c' '^2$' "docker commit -c 'ENV B=2' cli-main imgforge-clients/snap:3 >/dev/null && docker run --rm imgforge-clients/snap:3 sh -c 'echo \$B'"
step tag '' docker tag imgforge-clients/snap:1 imgforge-clients/snap:2
step rmi 'Untagged: imgforge-clients/snap:2' docker rmi imgforge-clients/snap:2
line 'export' 'tmp/in.txt' 'docker export cli-main | tar t'
step rename '' docker rename cli-main cli-term
step 'rename back' '' docker rename cli-term cli-main
step stats 'cli-main' docker stats --no-stream --format '{{.Name}} {{.MemUsage}}'
step update 'cli-main' docker update --memory 512m --memory-swap 512m cli-main
step stop 'cli-main' docker stop -t 2 cli-main
step start 'cli-main' docker start cli-main
step restart 'cli-main' docker restart -t 1 cli-main
step kill 'cli-main' docker kill cli-main
step wait '^137$' docker wait cli-main
step rm 'cli-main' docker rm -f cli-main

step 'logs of both outputs' '^out$' sh -c 'docker run --name cli-main "$image" sh -c "echo out; sleep 0.5; echo err >&2" >/dev/null 2>&1
    docker logs cli-main 2>/dev/null'
step 'logs --tail' '^err$' docker logs --tail 1 cli-main
step 'rm of an ended one' 'cli-main' docker rm cli-main
line 'logs -f' '^3$' 'docker run -d --name cli-main $image sh -c "for i in 1 2 3; do echo \$i; sleep 0.1; done" >/dev/null && docker logs -f cli-main'
step 'rm again' 'cli-main' docker rm -f cli-main
line 'publish a port' '^200$' 'docker run -d --name cli-web -p 127.0.0.1::8000 $image python3 -m http.server 8000 >/dev/null &&
    address=$(docker port cli-web 8000) &&
    curl -s -o /dev/null --retry 20 --retry-all-errors --retry-delay 1 -w "%{http_code}\n" "http://$address/"'
step 'exec in it' '200' docker exec cli-web curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/
line 'run --network container:' '^200$' 'docker run --rm --network container:cli-web $image curl -s -o /dev/null -w "%{http_code}\n" http://127.0.0.1:8000/'
line 'attach' '^attached$' 'docker run -d -i --name cli-term $image sh -c "read word; echo \$word" >/dev/null && { sleep 1; echo attached; sleep 1; } | docker attach cli-term'
line 'detach keys' '^true$' 'docker rm -f cli-term >/dev/null
    { sleep 2; printf "\020\021"; sleep 1; } | script -qec "docker run -it --name cli-term $image sh" /dev/null >/dev/null
    docker inspect -f "{{.State.Running}}" cli-term'
line 'health check' '^healthy$' 'docker run -d --name cli-health --health-cmd true --health-interval 1s $image sleep 1h >/dev/null &&
    for _ in 1 2 3 4 5 6 7 8 9 10; do state=$(docker inspect -f "{{.State.Health.Status}}" cli-health); [ $state = starting ] || break; sleep 1; done; echo $state'
line events '^start$' 'docker events --since 10m --until "$(date +%s)" --filter container=cli-health --format "{{.Action}}"'

line build '^built 1$' 'mkdir -p context && printf "FROM %s\nRUN echo built >/x\nENV A=1\nCOPY f /f\n" $image >context/Dockerfile && echo f >context/f &&
    docker build -q -t imgforge-clients/built:1 context >/dev/null && docker run --rm imgforge-clients/built:1 sh -c "echo \$(cat /x) \$A"'
line 'save and load' 'Loaded image: imgforge-clients/snap:1' 'docker save imgforge-clients/snap:1 -o snap.tar && docker rmi imgforge-clients/snap:1 >/dev/null && docker load -i snap.tar'
line import '^imported$' 'mkdir -p tree && docker create --name cli-main $image true >/dev/null && docker export cli-main >tree.tar && docker rm cli-main >/dev/null &&
    docker import tree.tar imgforge-clients/imported:1 >/dev/null && docker run --rm imgforge-clients/imported:1 echo imported'
line 'volumes' '^kept$' 'docker volume create cli-volume >/dev/null && docker run --rm -v cli-volume:/v $image sh -c "echo kept >/v/f" &&
    docker run --rm -v cli-volume:/v $image cat /v/f && docker volume rm cli-volume >/dev/null'
line 'networks' '^200$' 'docker network create cli-network >/dev/null && docker run -d --name cli-server --network cli-network --network-alias web $image python3 -m http.server 9000 >/dev/null &&
    docker run --rm --network cli-network $image curl -s -o /dev/null --retry 20 --retry-all-errors --retry-delay 1 -w "%{http_code}\n" http://web:9000/; docker rm -f cli-server >/dev/null; docker network rm cli-network >/dev/null'
step 'system df' 'Images' docker system df
docker rmi -f imgforge-clients/snap:1 imgforge-clients/snap:3 imgforge-clients/built:1 imgforge-clients/imported:1 >/dev/null 2>&1
docker network rm cli-network >/dev/null 2>&1
docker volume rm cli-volume >/dev/null 2>&1
tell_steps
