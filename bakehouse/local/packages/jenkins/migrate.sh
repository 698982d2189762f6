#!/bin/sh
# As the official one, for what an old installation has most: what was edited in FILE becomes the drop-in override.conf,
# unless there is one. Usage: migrate FILE
set -e

folder=/etc/systemd/system/jenkins.service.d
[ -r "$1" ] && [ ! -e "$folder/override.conf" ] || exit 0

# shellcheck disable=SC1090 # the variables of old installations, as a shell reads them
. "$1"
lines=''

# edited VALUE DEFAULT LINE: add the line if the value is another than the package's own
edited() {
	[ -z "$1" ] || [ "$1" = "$2" ] || lines="$lines$3
"
}

edited "$JENKINS_USER" jenkins "User=$JENKINS_USER"
edited "$JENKINS_GROUP" jenkins "Group=$JENKINS_GROUP"
edited "$JENKINS_HOME" /var/lib/jenkins "Environment=\"JENKINS_HOME=$JENKINS_HOME\""
edited "$JENKINS_HOME" /var/lib/jenkins "WorkingDirectory=$JENKINS_HOME"
edited "$HTTP_PORT" 8080 "Environment=\"JENKINS_PORT=$HTTP_PORT\""
edited "$JAVA_ARGS" -Djava.awt.headless=true "Environment=\"JAVA_OPTS=$JAVA_ARGS\""
[ -n "$lines" ] || exit 0
mkdir -p "$folder"
printf '[Service]\n%s' "$lines" >"$folder/override.conf"
