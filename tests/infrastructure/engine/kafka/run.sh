#!/usr/bin/env bash
# Starts one broker in KRaft mode. Its properties are in the environment: KAFKA_NODE_ID is node.id. In a name, `__` means
# an underscore and `___` a dash.
set -euo pipefail
properties=$(mktemp)
while IFS='=' read -r -d '' name value; do
  [[ $name == KAFKA_* && $name != KAFKA_HEAP_OPTS && $name != KAFKA_OPTS ]] || continue
  name=$(sed 's/^KAFKA_//; s/___/-/g; s/__/\n/g; s/_/./g; s/\n/_/g' <<<"${name,,}" | sed 's/^kafka\.//')
  echo "$name=$value"
done < <(env --null) >"$properties"
java=(java -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*')
"${java[@]}" kafka.tools.StorageTool format --ignore-formatted --cluster-id "$CLUSTER_ID" --config "$properties"
exec "${java[@]}" kafka.Kafka "$properties"
