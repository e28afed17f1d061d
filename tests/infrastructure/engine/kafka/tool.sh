#!/usr/bin/env bash
# Kafka's tools, each by the name of a link to this script.
set -euo pipefail
declare -A classes=(
  [acls]=org.apache.kafka.tools.AclCommand
  [configs]=kafka.admin.ConfigCommand
  [console-consumer]=org.apache.kafka.tools.consumer.ConsoleConsumer
  [consumer-groups]=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand
  [topics]=org.apache.kafka.tools.TopicCommand
  [transactions]=org.apache.kafka.tools.TransactionsCommand
)
name=$(basename "$0" .sh)
# shellcheck disable=SC2086 # several options
exec java ${KAFKA_JVM_PERFORMANCE_OPTS:-} -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
  -cp '/opt/kafka/libs/*' "${classes[${name#kafka-}]}" "$@"
