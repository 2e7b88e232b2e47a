#!/bin/sh
# The event comes on stdin, small facts in the environment. A mail or a chat message would go here.
set -eu
folder=${TREMULA_EXAMPLES:-.}
event=$(cat)
printf 'event %s, attempt %s: %s\n' \
    "$TREMULA_HOOK_EVENT_ID" "$TREMULA_HOOK_ATTEMPT" "$event" >> "$folder/leaders.log"
