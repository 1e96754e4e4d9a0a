package task

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

var kindProto = map[Kind]taskv1.Kind{
	Noop:          taskv1.Kind_KIND_NOOP,
	PrepareServer: taskv1.Kind_KIND_PREPARE_SERVER,
	ConvergeSite:  taskv1.Kind_KIND_CONVERGE_SITE,
	SiteLogin:     taskv1.Kind_KIND_SITE_LOGIN,
	BackupSite:    taskv1.Kind_KIND_BACKUP_SITE,
	RestoreSite:   taskv1.Kind_KIND_RESTORE_SITE,
	UndoRestore:   taskv1.Kind_KIND_UNDO_RESTORE,
	DrillSite:     taskv1.Kind_KIND_DRILL_SITE,
}

var stateProto = map[State]taskv1.State{
	Queued:    taskv1.State_STATE_QUEUED,
	Offered:   taskv1.State_STATE_OFFERED,
	Running:   taskv1.State_STATE_RUNNING,
	Unknown:   taskv1.State_STATE_UNKNOWN,
	Succeeded: taskv1.State_STATE_SUCCEEDED,
	Failed:    taskv1.State_STATE_FAILED,
	Canceled:  taskv1.State_STATE_CANCELED,
	TimedOut:  taskv1.State_STATE_TIMED_OUT,
}

var stepProto = map[StepState]taskv1.StepState{
	StepRunning:     taskv1.StepState_STEP_STATE_RUNNING,
	StepDone:        taskv1.StepState_STEP_STATE_DONE,
	StepAlreadyDone: taskv1.StepState_STEP_STATE_ALREADY_DONE,
	StepFailed:      taskv1.StepState_STEP_STATE_FAILED,
}

// Proto is the task as callers of the API see it. Steps are there when Get or
// Watch read them.
func (t Task) Proto() *taskv1.Task {
	p := &taskv1.Task{
		Id:              t.ID,
		OrganizationId:  t.Organization,
		ServerId:        t.Server,
		SiteId:          t.Site,
		Kind:            kindProto[t.Kind],
		State:           stateProto[t.State],
		Attempt:         t.Attempt,
		StepCount:       t.StepCount,
		Error:           t.Error,
		CreateTime:      timestamp(t.Created),
		StartTime:       timestamp(t.Started),
		EndTime:         timestamp(t.Ended),
		Deadline:        timestamp(t.Deadline),
		CancelRequested: !t.CancelRequested.IsZero(),
		Generation:      t.Generation,
	}
	if t.Progress.Doing != "" {
		p.Progress = &taskv1.Progress{DoneBytes: t.Progress.Done, TotalBytes: t.Progress.Total, Doing: t.Progress.Doing}
	}
	for _, s := range t.Steps {
		p.Steps = append(p.Steps, &taskv1.Step{
			Name:      s.Name,
			State:     stepProto[s.State],
			StartTime: timestamp(s.Started),
			EndTime:   timestamp(s.Ended),
			Message:   s.Message,
			Attempt:   s.Attempt,
		})
	}
	return p
}

// Proto is the line as callers of the API see it.
func (l LogLine) Proto() *taskv1.LogLine {
	return &taskv1.LogLine{Sequence: l.Sequence, Time: timestamp(l.Time), Text: l.Text}
}

// timestamp leaves unset what has not happened.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// ParseState is the state of a message; false for one that no task is in.
func ParseState(wanted taskv1.State) (State, bool) { return keyOf(stateProto, wanted) }

// ParseKind is the kind of a message; false for one that no task has.
func ParseKind(wanted taskv1.Kind) (Kind, bool) { return keyOf(kindProto, wanted) }

func keyOf[K, V comparable](names map[K]V, wanted V) (K, bool) {
	for key, value := range names {
		if value == wanted {
			return key, true
		}
	}
	var none K
	return none, false
}
