package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	"chom.dev/proto/gen/chom/backup/v1/backupv1connect"

	"chom.dev/controlplane/backup"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/rest"
	"chom.dev/proto/contract"
)

type importService struct{ backups *backup.Backups }

// importIDs parses the three ids that a request about one import has.
func importIDs(r interface {
	GetOrganizationId() string
	GetSiteId() string
	GetImportId() string
}) (organization contract.OrganizationID, site contract.SiteID, id contract.ImportID, err error) {
	if organization, site, err = siteIDs(r); err != nil {
		return organization, site, id, err
	}
	if id, err = contract.ParseImportID(r.GetImportId()); err != nil {
		err = invalid("import_id", err)
	}
	return organization, site, id, err
}

func (s *importService) CreateImport(ctx context.Context, r *backupv1.CreateImportRequest) (*backupv1.CreateImportResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	made, err := s.backups.CreateImport(ctx, organization, site, r.GetArchiveBytes(), r.GetDatabaseBytes(), int(r.GetStrip()))
	if err != nil {
		return nil, err
	}
	return &backupv1.CreateImportResponse{Import: importMessage(made)}, nil
}

func (s *importService) GetImport(ctx context.Context, r *backupv1.GetImportRequest) (*backupv1.GetImportResponse, error) {
	organization, site, id, err := importIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.GetImport(ctx, organization, site, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.GetImportResponse{Import: importMessage(found)}, nil
}

func (s *importService) UploadImport(ctx context.Context, r *backupv1.UploadImportRequest) (*backupv1.UploadImportResponse, error) {
	return s.upload(ctx, r, bytes.NewReader(r.GetData()))
}

func (s *importService) upload(ctx context.Context, r *backupv1.UploadImportRequest, from io.Reader) (*backupv1.UploadImportResponse, error) {
	organization, site, id, err := importIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.UploadImport(ctx, organization, site, id, importParts[r.GetPart()], r.GetOffset(), from)
	if err != nil {
		return nil, err
	}
	return &backupv1.UploadImportResponse{Import: importMessage(found)}, nil
}

func (s *importService) BeginImport(ctx context.Context, r *backupv1.BeginImportRequest) (*backupv1.BeginImportResponse, error) {
	organization, site, id, err := importIDs(r)
	if err != nil {
		return nil, err
	}
	made, err := s.backups.BeginImport(ctx, organization, site, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.BeginImportResponse{Backup: backupMessage(made)}, nil
}

var importParts = map[backupv1.UploadImportRequest_Part]backup.Part{
	backupv1.UploadImportRequest_PART_ARCHIVE:  backup.ArchivePart,
	backupv1.UploadImportRequest_PART_DATABASE: backup.DatabasePart,
}

func importMessage(i backup.Import) *backupv1.Import {
	m := &backupv1.Import{
		Id: i.ID.String(), OrganizationId: i.Organization.String(), SiteId: i.Site.String(), Strip: uint32(i.Strip), CreateTime: timestamppb.New(i.CreatedAt),
		Archive: &backupv1.Upload{Bytes: i.Archive, ReceivedBytes: i.ArchiveReceived},
	}
	if i.Database > 0 {
		m.Database = &backupv1.Upload{Bytes: i.Database, ReceivedBytes: i.DatabaseReceived}
	}
	if !i.Backup.IsZero() {
		m.BackupId = i.Backup.String()
	}
	return m
}

// uploadPath is UploadImport's own by REST.
const uploadPath = "PUT /api/v1/organizations/{organization_id}/sites/{site_id}/imports/{import_id}"

// uploads takes the bodies of UploadImport that are the bytes themselves, of any length: the way to its handler is that of every call,
// with the same row of the table. Whatever else comes to its path is for next.
func (d *door) uploads(s *importService, next http.Handler) http.Handler {
	raw := d.call(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := d.upload(s, r)
		if err != nil {
			w.Header().Set("Connection", "close") // nobody reads the rest of the body
			d.refuse(w, r, err)
			return
		}
		_ = d.end(r.Context(), nil) // it has ended well
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer) // a caller who went away needs no answer
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/octet-stream" {
			next.ServeHTTP(w, r)
			return
		}
		callOf(r.Context()).raw = true
		to := r.WithContext(r.Context())
		to.URL = &url.URL{Path: backupv1connect.ImportServiceUploadImportProcedure, RawQuery: r.URL.RawQuery}
		raw.ServeHTTP(w, to)
	})
}

// upload is what interceptors do for messages, and then the body's way into the file.
func (d *door) upload(s *importService, r *http.Request) ([]byte, error) {
	ctx := r.Context()
	request, err := uploadRequest(r)
	if err != nil {
		return nil, err
	}
	if err := d.validate(ctx, "", request); err != nil {
		return nil, err
	}
	if err := d.membership(ctx, backupv1connect.ImportServiceUploadImportProcedure, request); err != nil {
		return nil, err
	}
	defer d.streams.Add(-1)
	if d.streams.Add(1) > maxStreams {
		return nil, errStreams
	}
	answer, err := s.upload(ctx, request, &uploading{ctx: ctx, door: d, request: request, from: r.Body, looked: time.Now()})
	if err != nil {
		return nil, err
	}
	return rest.Codec{}.Marshal(answer)
}

// uploadRequest is what the URL says.
func uploadRequest(r *http.Request) (*backupv1.UploadImportRequest, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.Invalid("query", "can't be read")
	}
	request := &backupv1.UploadImportRequest{
		OrganizationId: r.PathValue("organization_id"), SiteId: r.PathValue("site_id"), ImportId: r.PathValue("import_id"),
		Part: backupv1.UploadImportRequest_Part(backupv1.UploadImportRequest_Part_value[query.Get("part")]),
	}
	if text := query.Get("offset"); text != "" {
		if request.Offset, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, fault.Invalid("offset", "must be a number")
		}
	}
	return request, nil
}

// pieceWithin is how long the next bytes of an upload may take.
const pieceWithin = 60 * time.Second

var errBrokeOff = fault.Unavailable("the upload broke off: go on where it ended", time.Second, nil)

// uploading reads a body for as long as its caller may send it: that is decided anew every few seconds, as of a stream.
type uploading struct {
	ctx     context.Context
	door    *door
	request *backupv1.UploadImportRequest
	from    io.Reader
	looked  time.Time
}

func (u *uploading) Read(p []byte) (int, error) {
	if u.door.closing.Err() != nil {
		return 0, errClosing
	}
	if now := time.Now(); now.Sub(u.looked) > againEvery {
		u.looked = now
		var message proto.Message = u.request
		if err := (again{u.door}).decide(u.ctx, &message); err != nil {
			return 0, err
		}
		// A controller that cannot set deadlines is a test's recorder.
		_ = callOf(u.ctx).controller.SetReadDeadline(now.Add(pieceWithin))
	}
	n, err := u.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, errBrokeOff
	}
	return n, err
}
