package mesh

import (
	"regexp"
	"time"
)

// LogQuery selects log lines of a stack.
type LogQuery struct {
	Stack    StackName
	Sources  []string    // "app", what instances and commands printed; "router", a line per request; "mesh", its events; none: app
	Service  ServiceName // empty: all
	Instance InstanceName
	Run      string         // a detached run, "run.4211", as the engine has it, instead of kept lines
	Release  ReleaseNumber  // of the instance; 0: all
	Grep     *regexp.Regexp // matches the text, or the fields of a JSON line as name=value; nil: all
	Level    LogLevel       // at least; lines that do not say their level are left out; 0: all
	Since    time.Time      // zero: from the beginning
	Until    time.Time      // zero: to the end
	Lines    int            // the last lines; negative: all
	Follow   bool           // continue with new lines, including those of instances that start later, until the context ends
	Caught   func()         // called once, when the existing lines have been passed on and Follow continues; may be nil
}

// LogLine is one line of a stack's log.
type LogLine struct {
	At      time.Time
	Source  string        // "app": an instance printed it; "router", "mesh"
	Name    string        // "web.1"
	Release ReleaseNumber // of the instance; 0: unknown
	Text    string        // without the line end
	Level   LogLevel      // in what is sent to drains; 0: unknown
}

// LogLevel is how serious a log line is.
type LogLevel int

// The levels, with the names that RFC 5424 and common logging libraries use for them.
const (
	LevelDebug LogLevel = iota + 1 // also trace
	LevelInfo
	LevelNotice
	LevelWarn
	LevelError
	LevelFatal // also critical, alert, emergency, panic
)

var levelNames = map[string]LogLevel{
	"trace": LevelDebug, "debug": LevelDebug, "dbg": LevelDebug, "verbose": LevelDebug,
	"info": LevelInfo, "inf": LevelInfo, "information": LevelInfo, "informational": LevelInfo,
	"notice": LevelNotice,
	"warn":   LevelWarn, "warning": LevelWarn, "wrn": LevelWarn,
	"error": LevelError, "err": LevelError, "severe": LevelError,
	"fatal": LevelFatal, "crit": LevelFatal, "critical": LevelFatal, "alert": LevelFatal, "emerg": LevelFatal, "emergency": LevelFatal, "panic": LevelFatal, "dpanic": LevelFatal,
}

// String returns the usual name of a level, in lower case; empty for 0.
func (l LogLevel) String() string {
	return [...]string{"", "debug", "info", "notice", "warn", "error", "fatal"}[l]
}

// ParseLogLevel understands the names of levels, in lower case. It returns 0 for others.
func ParseLogLevel(s string) LogLevel { return levelNames[s] }
