#!/usr/bin/env bash
# Gives Kafka's two users their rights, and nobody else any. Run it again after a change: it only adds.
#   SERVER=kafka:9095 CONFIG=admin.properties access.sh rights
#   SERVER=kafka:9095 CONFIG=admin.properties access.sh user NAME PASSWORD_FILE   # create NAME, or change its password
#   SERVER=kafka:9095 CONFIG=admin.properties access.sh replay TOPIC NAME         # let NAME read a replay
# CONFIG is a client configuration of Kafka's tools, of a principal in the brokers' super.users. The brokers need
#   authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
#   allow.everyone.if.no.acl.found=false
# TOPIC is RELAY_TOPIC and CONSUMER_TOPIC, GROUP is CONSUMER_GROUP. For further consumers, set CONSUMER and GROUP.
set -euo pipefail
PATH=$PATH:/opt/kafka/bin
# Each tool is a Java program that lives for a second: with the light compiler and collector it needs half as much CPU.
export KAFKA_JVM_PERFORMANCE_OPTS=${KAFKA_JVM_PERFORMANCE_OPTS:--XX:TieredStopAtLevel=1 -XX:+UseSerialGC}
topic=${TOPIC:-orders.v1} relay=${RELAY:-relay} consumer=${CONSUMER:-consumer} group=${GROUP:-platform}
server=(--bootstrap-server "$SERVER" --command-config "$CONFIG")

allow() { # allow USER "OPERATION …" RESOURCE …
    local user=$1 operation operations=()
    for operation in $2; do operations+=(--operation "$operation"); done
    shift 2
    kafka-acls.sh "${server[@]}" --add --allow-principal "User:$user" "${operations[@]}" "$@"
}

rights() {
    # The relay creates topics that are missing, and checks their settings.
    allow "$relay" "Create Describe DescribeConfigs Write" \
        --topic "$topic" --topic "$topic.watermarks" --topic "$topic.positions"
    # At a take-over it reads which batch was committed last.
    allow "$relay" "Read" --topic "$topic.positions"
    # Replays: an operator names their topics. Only names that begin like this can be used. Who reads one: `replay`.
    allow "$relay" "Create Describe DescribeConfigs Write" --topic "$topic-" --resource-pattern-type prefixed
    # Whoever may use these ids can fence the relay's producers.
    allow "$relay" "Describe Write" --transactional-id "$topic." --resource-pattern-type prefixed
    allow "$consumer" "Describe Read" --topic "$topic" --topic "$topic.watermarks" --group "$group"
}

replay() { # replay TOPIC NAME
    if [[ $1 != "$topic-"* ]]; then
        echo "The name of a replay's topic must begin with $topic-" >&2
        return 1
    fi
    allow "$2" "Describe Read" --topic "$1"
}

user() { # user NAME PASSWORD_FILE
    local file
    file=$(mktemp)
    # In a file: other processes can read arguments. A backslash has a meaning there.
    printf 'SCRAM-SHA-512=iterations=8192,password=%s\n' "$(sed 's/\\/\\\\/g' "$2")" >"$file"
    kafka-configs.sh "${server[@]}" --alter --entity-type users --entity-name "$1" --add-config-file "$file"
    rm "$file"
}

"$@"
