package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	metricv1 "chom.dev/proto/gen/chom/metric/v1"

	"chom.dev/controlplane/fault"
	history "chom.dev/controlplane/metrics"
	"chom.dev/proto/contract"
)

type metricService struct{ metrics *history.Metrics }

// seenBy is what the caller may see of the organization in a request.
func seenBy(ctx context.Context, r interface{ GetOrganizationId() string }) (history.Scope, error) {
	if r.GetOrganizationId() == nilUUID {
		return history.OfPlatform(), nil // the table lets operators alone name it
	}
	organization, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return history.Scope{}, invalid("organization_id", err)
	}
	return history.OfOrganization(organization, reachOf(ctx)), nil
}

func (s *metricService) Query(ctx context.Context, r *metricv1.QueryRequest) (*metricv1.QueryResponse, error) {
	scope, err := seenBy(ctx, r)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	if r.GetTime() != nil {
		at = r.GetTime().AsTime()
	}
	a, err := s.metrics.Query(ctx, scope, r.GetQuery(), at)
	if err != nil {
		return nil, err
	}
	return answerMessage(a), nil
}

func answerMessage(a history.Answer) *metricv1.QueryResponse {
	switch a.Kind {
	case history.Scalar:
		scalar := &metricv1.Scalar{}
		for _, s := range a.Series {
			scalar.Point = pointMessage(s.Points[0])
		}
		return &metricv1.QueryResponse{Result: &metricv1.QueryResponse_Scalar{Scalar: scalar}}
	case history.Vector:
		vector := &metricv1.Vector{}
		for _, s := range a.Series {
			vector.Samples = append(vector.Samples, &metricv1.Sample{Labels: s.Labels, Point: pointMessage(s.Points[0])})
		}
		return &metricv1.QueryResponse{Result: &metricv1.QueryResponse_Vector{Vector: vector}}
	case history.Text:
		return &metricv1.QueryResponse{Result: &metricv1.QueryResponse_Text{Text: a.Text}}
	default:
		return &metricv1.QueryResponse{Result: &metricv1.QueryResponse_Matrix{Matrix: matrixMessage(a)}}
	}
}

func (s *metricService) QueryRange(ctx context.Context, r *metricv1.QueryRangeRequest) (*metricv1.QueryRangeResponse, error) {
	scope, err := seenBy(ctx, r)
	if err != nil {
		return nil, err
	}
	a, err := s.metrics.QueryRange(ctx, scope, r.GetQuery(), r.GetStartTime().AsTime(), r.GetEndTime().AsTime(), r.GetStep().AsDuration())
	if err != nil {
		return nil, err
	}
	return &metricv1.QueryRangeResponse{Matrix: matrixMessage(a)}, nil
}

func matrixMessage(a history.Answer) *metricv1.Matrix {
	m := &metricv1.Matrix{}
	for _, s := range a.Series {
		m.Series = append(m.Series, &metricv1.Series{Labels: s.Labels, Points: pointMessages(s.Points)})
	}
	return m
}

func pointMessages(points []history.Point) []*metricv1.Point {
	all := make([]*metricv1.Point, len(points))
	for i, p := range points {
		all[i] = pointMessage(p)
	}
	return all
}

func pointMessage(p history.Point) *metricv1.Point {
	return &metricv1.Point{Time: timestamppb.New(p.At), Value: p.Value}
}

// defaultWindow is what a sparkline shows unless the caller says otherwise.
const defaultWindow = time.Hour

func (s *metricService) Sparklines(ctx context.Context, r *metricv1.SparklinesRequest) (*metricv1.SparklinesResponse, error) {
	scope, err := seenBy(ctx, r)
	if err != nil {
		return nil, err
	}
	if (len(r.GetServerIds()) == 0) == (len(r.GetSiteIds()) == 0) {
		return nil, fault.Invalid("server_ids", "or site_ids must be given, and not both")
	}
	window := defaultWindow
	if r.GetWindow() != nil {
		window = r.GetWindow().AsDuration()
	}
	figure := figures[r.GetFigure()]
	var lines map[string][]history.Point
	wanted := r.GetServerIds()
	if len(wanted) > 0 {
		servers, err := idsOf("server_ids", wanted, contract.ParseServerID)
		if err != nil {
			return nil, err
		}
		lines, err = s.metrics.ServerSparklines(ctx, scope, servers, figure, window, time.Now())
		if err != nil {
			return nil, err
		}
	} else {
		wanted = r.GetSiteIds()
		sites, err := idsOf("site_ids", wanted, contract.ParseSiteID)
		if err != nil {
			return nil, err
		}
		lines, err = s.metrics.SiteSparklines(ctx, scope, sites, figure, window, time.Now())
		if err != nil {
			return nil, err
		}
	}
	answer := &metricv1.SparklinesResponse{}
	for _, id := range wanted {
		if len(lines[id]) > 0 {
			answer.Sparklines = append(answer.Sparklines, &metricv1.Sparkline{Id: id, Points: pointMessages(lines[id])})
		}
	}
	return answer, nil
}

func idsOf[ID any](field string, texts []string, parse func(string) (ID, error)) ([]ID, error) {
	ids := make([]ID, len(texts))
	for i, text := range texts {
		id, err := parse(text)
		if err != nil {
			return nil, invalid(field, err)
		}
		ids[i] = id
	}
	return ids, nil
}

var figures = map[metricv1.Figure]history.Figure{
	metricv1.Figure_FIGURE_CPU:      history.CPU,
	metricv1.Figure_FIGURE_MEMORY:   history.Memory,
	metricv1.Figure_FIGURE_DISK:     history.Disk,
	metricv1.Figure_FIGURE_REQUESTS: history.Requests,
	metricv1.Figure_FIGURE_ERRORS:   history.Errors,
}
