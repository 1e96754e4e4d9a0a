package metrics

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"chom.dev/controlplane/fault"
)

// Limits of a question.
const (
	// MaxQuery is how long an expression may be, in bytes.
	MaxQuery = 2000
	// MaxSteps is how many points a series of an answer may have: Prometheus' own limit.
	MaxSteps = 11_000
	// MaxAnswer is how many points an answer may have in all: some megabytes.
	MaxAnswer = 100_000
	// MaxRange is how long a range may be.
	MaxRange = 366 * 24 * time.Hour
	// MinStep is the least time between two points.
	MinStep = time.Second

	maxInMemory = 1_000_000 // samples, of 16 bytes
	answerIn    = 10 * time.Second
	// lookBack is how old a value may be that still counts: a host reports once a minute, and may miss some.
	lookBack = 5 * time.Minute
)

// Point is a value at a moment.
type Point struct {
	At    time.Time
	Value float64
}

// Series is a line of an answer.
type Series struct {
	Labels map[string]string
	Points []Point // oldest first; one, in a Vector
}

// Kind is what an answer is.
type Kind string

// Kinds, as PromQL names them.
const (
	Scalar Kind = "scalar" // one series without labels, with one point
	Vector Kind = "vector"
	Matrix Kind = "matrix"
	Text   Kind = "string"
)

// Answer is what an expression came to.
type Answer struct {
	Kind   Kind
	Series []Series
	Text   string // of Text
}

var expressions = parser.NewParser(parser.Options{})

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: maxInMemory, Timeout: answerIn, LookbackDelta: lookBack, EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		Parser:                   expressions,
	})
}

// Query evaluates an expression at a moment. The answer has series of the scope alone.
func (m *Metrics) Query(ctx context.Context, scope Scope, query string, at time.Time) (Answer, error) {
	if len(query) > MaxQuery {
		return Answer{}, errQuery
	}
	text, kind, err := scope.narrowed(query)
	if err != nil {
		return Answer{}, err
	}
	if scope.nothing() {
		return Answer{Kind: Kind(kind)}, nil
	}
	return m.ask(ctx, scope, func(ctx context.Context, w wall) (promql.Query, error) {
		return m.engine.NewInstantQuery(ctx, w, nil, text, at)
	})
}

// QueryRange evaluates an expression of type scalar or instant vector at each step from start to end. The answer is a Matrix.
func (m *Metrics) QueryRange(ctx context.Context, scope Scope, query string, start, end time.Time, step time.Duration) (Answer, error) {
	switch {
	case len(query) > MaxQuery:
		return Answer{}, errQuery
	case end.Before(start):
		return Answer{}, fault.Invalid("end_time", "must not be before start_time")
	case end.Sub(start) > MaxRange:
		return Answer{}, fault.Invalid("end_time", "must be at most 366 days after start_time")
	case step < MinStep:
		return Answer{}, fault.Invalid("step", "must be 1s or more")
	case end.Sub(start)/step >= MaxSteps:
		return Answer{}, fault.Invalid("step", fmt.Sprintf("must leave at most %d points in the range", MaxSteps))
	}
	return m.overRange(ctx, scope, query, start, end, step)
}

var errQuery = fault.Invalid("query", fmt.Sprintf("must be at most %d bytes long", MaxQuery))

func (m *Metrics) overRange(ctx context.Context, scope Scope, query string, start, end time.Time, step time.Duration) (Answer, error) {
	text, kind, err := scope.narrowed(query)
	if err != nil {
		return Answer{}, err
	}
	if kind != parser.ValueTypeScalar && kind != parser.ValueTypeVector {
		return Answer{}, fault.Invalid("query", "must be of type scalar or instant vector")
	}
	if scope.nothing() {
		return Answer{Kind: Matrix}, nil
	}
	return m.ask(ctx, scope, func(ctx context.Context, w wall) (promql.Query, error) {
		return m.engine.NewRangeQuery(ctx, w, nil, text, start, end, step)
	})
}

// ask waits for a slot and evaluates.
func (m *Metrics) ask(ctx context.Context, scope Scope, prepare func(context.Context, wall) (promql.Query, error)) (Answer, error) {
	history, release, err := m.use()
	if err != nil {
		return Answer{}, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	done, err := m.slots.take(ctx, scope.organization)
	if err != nil {
		return Answer{}, err
	}
	defer done()
	query, err := prepare(ctx, wall{history, scope})
	if err != nil {
		return Answer{}, failure(err)
	}
	defer query.Close()
	result := query.Exec(ctx)
	if result.Err != nil {
		return Answer{}, failure(result.Err)
	}
	return answer(result.Value)
}

// failure tells what the caller can mend from what is broken here.
func failure(err error) error {
	var (
		late     promql.ErrQueryTimeout
		canceled promql.ErrQueryCanceled
		many     promql.ErrTooManySamples
		broken   promql.ErrStorage
		bug      runtime.Error
	)
	switch {
	case errors.As(err, &late):
		return fault.Invalid("query", fmt.Sprintf("takes longer than %s: ask for less", answerIn))
	case errors.As(err, &many):
		return fault.Invalid("query", fmt.Sprintf("needs more than %d samples at a time: ask for less", maxInMemory))
	case errors.As(err, &canceled):
		return context.Canceled
	case errors.As(err, &broken), errors.As(err, &bug), errors.Is(err, errWall):
		return fmt.Errorf("ask the history of metrics: %w", err)
	}
	return fault.Invalid("query", err.Error()) // two series that match one, and the like
}

// answer is a value of the engine in words of our own. The engine uses the memory of its values again.
func answer(value parser.Value) (Answer, error) {
	switch v := value.(type) {
	case promql.Scalar:
		return Answer{Kind: Scalar, Series: []Series{{Points: []Point{point(v.T, v.V)}}}}, nil
	case promql.String:
		return Answer{Kind: Text, Text: v.V}, nil
	case promql.Vector:
		if len(v) > MaxAnswer {
			return Answer{}, errAnswer
		}
		a := Answer{Kind: Vector}
		for _, s := range v {
			a.Series = append(a.Series, Series{Labels: s.Metric.Map(), Points: []Point{point(s.T, s.F)}})
		}
		return a, nil
	case promql.Matrix:
		a, total := Answer{Kind: Matrix}, 0
		for _, s := range v {
			if total += len(s.Floats); total > MaxAnswer {
				return Answer{}, errAnswer
			}
			line := Series{Labels: s.Metric.Map(), Points: make([]Point, 0, len(s.Floats))}
			for _, f := range s.Floats {
				line.Points = append(line.Points, point(f.T, f.F))
			}
			a.Series = append(a.Series, line)
		}
		return a, nil
	}
	return Answer{}, fmt.Errorf("ask the history of metrics: the answer is a %T", value)
}

var errAnswer = fault.Invalid("query", fmt.Sprintf("must leave at most %d points in all: aggregate, or choose a longer step", MaxAnswer))

func point(ms int64, value float64) Point { return Point{time.UnixMilli(ms).UTC(), value} }
