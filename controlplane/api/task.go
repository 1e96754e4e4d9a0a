package api

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/controlplane/task"
)

type taskService struct {
	db    *db.DB
	tasks *task.Tasks
}

func (s *taskService) GetTask(ctx context.Context, r *taskv1.GetTaskRequest) (*taskv1.GetTaskResponse, error) {
	found, err := s.reached(ctx, r.GetOrganizationId(), r.GetTaskId())
	if err != nil {
		return nil, err
	}
	return &taskv1.GetTaskResponse{Task: found.Proto()}, nil
}

// reached gives a task, if it is about a site that the caller reaches; for all others there is none.
func (s *taskService) reached(ctx context.Context, organization, id string) (task.Task, error) {
	found, err := s.tasks.Get(ctx, organization, id)
	if err != nil {
		return task.Task{}, err
	}
	if only := reachOf(ctx); only != nil && !slices.Contains(only, found.Site) {
		return task.Task{}, errNoTask
	}
	return found, nil
}

var errNoTask = fault.NotFound("task")

func (s *taskService) ListTasks(ctx context.Context, r *taskv1.ListTasksRequest) (*taskv1.ListTasksResponse, error) {
	size, err := page.Size(r.GetPageSize())
	if err != nil {
		return nil, err
	}
	var states []task.State
	for _, wanted := range r.GetStates() {
		if state, ok := task.ParseState(wanted); ok {
			states = append(states, state)
		}
	}
	var kinds []task.Kind
	for _, wanted := range r.GetKinds() {
		if kind, ok := task.ParseKind(wanted); ok {
			kinds = append(kinds, kind)
		}
	}
	query := page.Query{"tasks", r.GetOrganizationId(), r.GetSiteId(), r.GetServerId(), page.Words(states), page.Words(kinds)}
	before, err := query.After(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	found, err := s.tasks.List(ctx, task.Query{
		Organization: r.GetOrganizationId(),
		Site:         r.GetSiteId(),
		Server:       r.GetServerId(),
		Sites:        reachOf(ctx),
		States:       states,
		Kinds:        kinds,
		Before:       before,
		Limit:        size,
	})
	if err != nil {
		return nil, err
	}
	answer := &taskv1.ListTasksResponse{}
	if len(found) == size {
		answer.NextPageToken = query.Token(found[size-1].ID)
	}
	for _, t := range found {
		answer.Tasks = append(answer.Tasks, t.Proto())
	}
	return answer, nil
}

func (s *taskService) CancelTask(ctx context.Context, r *taskv1.CancelTaskRequest) (*taskv1.CancelTaskResponse, error) {
	found, err := s.reached(ctx, r.GetOrganizationId(), r.GetTaskId())
	if err != nil {
		return nil, err
	}
	err = db.InTx(ctx, s.db, func(tx *db.Tx) error {
		var err error
		if found, err = s.tasks.Cancel(ctx, tx, r.GetOrganizationId(), r.GetTaskId()); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: r.GetOrganizationId(), Action: "task.cancel", Object: r.GetTaskId()})
	}, db.ReadCommitted()) // Cancel locks the task's row before it decides anything
	if err != nil {
		return nil, err
	}
	return &taskv1.CancelTaskResponse{Task: found.Proto()}, nil
}

func (s *taskService) WatchTask(ctx context.Context, r *taskv1.WatchTaskRequest, stream *connect.ServerStream[taskv1.WatchTaskResponse]) error {
	if _, err := s.reached(ctx, r.GetOrganizationId(), r.GetTaskId()); err != nil {
		return err
	}
	return s.tasks.Watch(ctx, r.GetOrganizationId(), r.GetTaskId(), r.GetAfterLogSequence(), func(t task.Task, lines []task.LogLine) error {
		answer := &taskv1.WatchTaskResponse{Task: t.Proto()}
		for _, line := range lines {
			answer.LogLines = append(answer.LogLines, line.Proto())
		}
		return stream.Send(answer)
	})
}
