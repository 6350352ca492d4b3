#!/usr/bin/env bash
# docker compose: two services with a health check, a network and a volume of their own.
set -uo pipefail
# shellcheck source=tests/clients/drive/steps.sh
. "$CLIENTS/drive/steps.sh"

mkdir -p project/context
cp "$CLIENTS/tasks/compose.yaml" project/
printf 'FROM %s\nRUN echo built >/built\n' "$CLIENTS_IMAGE" >project/context/Dockerfile
cd project || exit 2
export DOCKER_BUILDKIT=0 COMPOSE_PROJECT_NAME=clients
export image=$CLIENTS_IMAGE
end() { docker compose down --volumes --remove-orphans --timeout 1 >/dev/null 2>&1; }
trap end EXIT

step version '^2\.' docker compose version --short
step config 'condition: service_healthy' docker compose config
step 'up --wait of two services' 'Healthy' docker compose up --detach --wait web client
step ps 'healthy' docker compose ps --all
line 'ps --format json' '"Service":"web"' 'docker compose ps --format json'
step 'a service by its name' '^200$' docker compose exec -T client curl -s -o /dev/null -w '%{http_code}' http://web:9000/
ends 3 'exec -T -u -w -e' '^1000 /tmp b$' docker compose exec -T -u 1000 -w /tmp -e A=b client sh -c 'echo $(id -u) $PWD $A; exit 3'
line 'cp in' '^in$' 'echo in >in.txt && docker compose cp in.txt client:/tmp/in.txt 2>/dev/null && docker compose exec -T client cat /tmp/in.txt'
line 'cp out' '^in$' 'docker compose cp client:/tmp/in.txt out.txt 2>/dev/null && cat out.txt'
step 'a volume of two services' '^shared$' sh -c 'docker compose exec -T web sh -c "echo shared >/data/f" && docker compose exec -T client cat /data/f'
step logs 'served' docker compose logs web
step ls 'clients' docker compose ls
step build '' docker compose build built
step 'run of what was built' '^built$' docker compose run --rm -T --no-deps built cat /built
step stop '' docker compose stop --timeout 1
step start '' docker compose start
step down '' docker compose down --volumes --timeout 1
line 'nothing is left' '^0$' 'docker ps -a --filter label=com.docker.compose.project=clients -q | wc -l'
docker rmi -f clients-built >/dev/null 2>&1
tell_steps
