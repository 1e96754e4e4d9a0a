package host

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
)

const (
	// maxLogLines a session: enough to explain a failure, too few to fill a
	// journal with.
	maxLogLines = 200
	maxLogLine  = 1000
)

// sessionLog is go-plugin's logger: its own remarks become debug lines, what
// the plugin prints on stderr becomes "plugin says" lines, bounded in number
// and length. The level that the plugin claims is ignored.
type sessionLog struct {
	hclog.Logger // a null logger: everything not overridden stays silent
	slog         *slog.Logger
	name         string
	says         bool // lines come from the plugin's stderr
	left         *atomic.Int64
}

func newLog(logger *slog.Logger) hclog.Logger {
	left := &atomic.Int64{}
	left.Store(maxLogLines)
	return &sessionLog{Logger: hclog.NewNullLogger(), slog: logger, left: left}
}

// Named is called with the file name of the plugin for what it prints, and
// with "stdio" for go-plugin's remarks on its output.
func (l *sessionLog) Named(name string) hclog.Logger {
	named := *l
	named.name = name
	named.says = strings.HasPrefix(name, BinaryPrefix)
	return &named
}

func (l *sessionLog) With(...any) hclog.Logger            { return l }
func (l *sessionLog) ResetNamed(name string) hclog.Logger { return l.Named(name) }
func (l *sessionLog) Name() string                        { return l.name }
func (l *sessionLog) GetLevel() hclog.Level               { return hclog.Debug }
func (l *sessionLog) IsDebug() bool                       { return true }
func (l *sessionLog) IsInfo() bool                        { return true }
func (l *sessionLog) IsWarn() bool                        { return true }
func (l *sessionLog) IsError() bool                       { return true }

func (l *sessionLog) Debug(msg string, args ...any) { l.line(msg, args) }
func (l *sessionLog) Info(msg string, args ...any)  { l.line(msg, args) }
func (l *sessionLog) Warn(msg string, args ...any)  { l.line(msg, args) }
func (l *sessionLog) Error(msg string, args ...any) { l.line(msg, args) }

func (l *sessionLog) Log(_ hclog.Level, msg string, args ...any) { l.line(msg, args) }

func (l *sessionLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(io.Discard, "", 0)
}

func (l *sessionLog) line(msg string, args []any) {
	if !l.says {
		l.slog.Debug("plugin session", "event", printableLine(msg), "details", printableLine(fmt.Sprint(args...)))
		return
	}
	switch left := l.left.Add(-1); {
	case left >= 0:
		l.slog.Log(context.Background(), slog.LevelInfo, "plugin says", "line", printableLine(msg))
	case left == -1:
		l.slog.Warn("plugin says too much, the rest is dropped", "lines", maxLogLines)
	}
}

// printableLine cuts and quotes: escape codes and line breaks stay visible and
// harmless wherever the log is read.
func printableLine(s string) string {
	if len(s) > maxLogLine {
		s = s[:maxLogLine] + "..."
	}
	quoted := fmt.Sprintf("%+q", s)
	return quoted[1 : len(quoted)-1]
}
