#!/bin/sh
# Start the war with what the JENKINS_* variables say, in place of this shell.
#
# As in the official package the finished command line goes through `eval`: values are shell text, so that quotes,
# `;`, `&` and `$` in JAVA_OPTS and JENKINS_OPTS mean what they mean to a shell.

die() {
	echo "$(basename "$0"): $*" >&2
	exit 1
}

# option NAME VALUE [QUOTE]: add --NAME=VALUE to the options, between the quotes, unless VALUE is empty
option() {
	[ -z "$2" ] || options="$options --$1=$3$2$3"
}

java_command() {
	if [ -x "$JENKINS_JAVA_CMD" ]; then
		echo "$JENKINS_JAVA_CMD"
	elif [ -n "$JAVA_HOME" ] && [ -x "$JAVA_HOME/bin/java" ]; then
		echo "$JAVA_HOME/bin/java"
	else
		command -v java
	fi
}

war=${JENKINS_WAR:-/usr/share/java/jenkins.war}
[ -z "$JENKINS_HOME" ] || [ -d "$JENKINS_HOME" ] || die "$JENKINS_HOME is not a directory"
[ -f "$war" ] || die "$war is not a file"
java=$(java_command) || die 'failed to find a valid Java installation'

options=''
option webroot "$JENKINS_WEBROOT" "'"
option logfile "$JENKINS_LOG" "'"
option httpPort "$JENKINS_PORT"
option httpListenAddress "$JENKINS_LISTEN_ADDRESS"
option httpUnixDomainPath "$JENKINS_UNIX_DOMAIN_PATH"
option httpsPort "$JENKINS_HTTPS_PORT"
option httpsListenAddress "$JENKINS_HTTPS_LISTEN_ADDRESS"
option httpsKeyStore "$JENKINS_HTTPS_KEYSTORE" "'"
option httpsKeyStorePassword "$JENKINS_HTTPS_KEYSTORE_PASSWORD" "'"
option http2Port "$JENKINS_HTTP2_PORT"
option http2ListenAddress "$JENKINS_HTTP2_LISTEN_ADDRESS"
[ "${JENKINS_DEBUG_LEVEL:-5}" = 5 ] || option debug "$JENKINS_DEBUG_LEVEL"
option prefix "$JENKINS_PREFIX" "'"
options="$options $JENKINS_OPTS $*"
if [ "$JENKINS_ENABLE_ACCESS_LOG" = true ]; then
	option accessLoggerClassName winstone.accesslog.SimpleAccessLogger
	option simpleAccessLogger.format combined
	option simpleAccessLogger.file /var/log/jenkins/access_log
fi

# What is on the command line now need not be in the environment too, where every build would see it.
jvm_options=$JAVA_OPTS
unset JAVA_OPTS JENKINS_DEBUG_LEVEL JENKINS_ENABLE_ACCESS_LOG JENKINS_HTTP2_LISTEN_ADDRESS JENKINS_HTTP2_PORT \
	JENKINS_HTTPS_KEYSTORE JENKINS_HTTPS_KEYSTORE_PASSWORD JENKINS_HTTPS_LISTEN_ADDRESS JENKINS_HTTPS_PORT \
	JENKINS_JAVA_CMD JENKINS_LISTEN_ADDRESS JENKINS_LOG JENKINS_OPTS JENKINS_PORT JENKINS_PREFIX \
	JENKINS_UNIX_DOMAIN_PATH JENKINS_WAR JENKINS_WEBROOT
# shellcheck disable=SC2086 # word splitting and eval are how the official launcher reads these variables
eval exec "$java" $jvm_options -jar "$war" $options
