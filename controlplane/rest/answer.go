package rest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net/http"

	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/protobuf/proto"
)

// answer turns what Connect writes into what a caller by REST reads.
type answer interface {
	http.ResponseWriter
	// close ends it, once the service has returned.
	close()
}

const (
	contentJSON  = "application/json"
	contentLines = "application/x-ndjson"
)

func answerTo(w http.ResponseWriter, route *Route) answer {
	if route.Streams() {
		return &stream{ResponseWriter: w, raw: route.Raw()}
	}
	return &single{ResponseWriter: w, raw: route.Raw()}
}

// single is an answer of one message. Connect writes it as it is, or an error as JSON with a status of its own.
type single struct {
	http.ResponseWriter
	raw    bool // an HttpBody
	status int
	kept   bytes.Buffer // an error, or a message that is not sent as it is
}

// Unwrap is for http.ResponseController.
func (s *single) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *single) keeps() bool { return s.raw || s.status != http.StatusOK }

func (s *single) WriteHeader(status int) {
	if s.status != 0 {
		return
	}
	s.status = status
	clean(s.Header())
	if !s.keeps() {
		s.Header().Set("Content-Type", contentJSON)
		s.ResponseWriter.WriteHeader(status)
	}
}

func (s *single) Write(b []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	if s.keeps() {
		return s.kept.Write(b)
	}
	return s.ResponseWriter.Write(b)
}

func (s *single) close() {
	switch {
	case s.status == 0 || !s.keeps():
	case s.status != http.StatusOK:
		WriteProblem(s.ResponseWriter, fromConnect(s.kept.Bytes(), s.status))
	default:
		var content httpbody.HttpBody
		if err := proto.Unmarshal(s.kept.Bytes(), &content); err != nil {
			WriteProblem(s.ResponseWriter, problemOf(http.StatusInternalServerError, "the answer cannot be read"))
			return
		}
		s.Header().Set("Content-Type", content.GetContentType())
		_, _ = s.ResponseWriter.Write(content.GetData()) // a reader who went away needs no answer
	}
}

// clean removes the headers that are about Connect.
func clean(h http.Header) {
	for _, name := range []string{"Accept-Encoding", "Accept-Post", "Connect-Accept-Encoding", "Connect-Content-Encoding", "Content-Encoding", "Content-Length"} {
		h.Del(name)
	}
}

// stream is an answer of many messages. Connect writes each in an envelope (a byte of flags, four of length), and the end in
// one that is marked so.
type stream struct {
	http.ResponseWriter
	raw    bool
	status int
	begun  bool // something was sent
	ended  bool // the end was seen
	kept   bytes.Buffer
}

// Unwrap is for http.ResponseController.
func (s *stream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Flush implements http.Flusher.
func (s *stream) Flush() {
	if s.begun {
		_ = http.NewResponseController(s.ResponseWriter).Flush() // a writer that cannot flush sends when it likes
	}
}

func (s *stream) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
		clean(s.Header())
	}
}

const (
	envelopeHead = 5
	flagEnd      = 2
)

func (s *stream) Write(b []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	s.kept.Write(b)
	if s.status != http.StatusOK { // an error before there was a stream
		return len(b), nil
	}
	for s.kept.Len() >= envelopeHead {
		head := s.kept.Bytes()
		size := int(binary.BigEndian.Uint32(head[1:envelopeHead]))
		if s.kept.Len() < envelopeHead+size {
			break
		}
		envelope := s.kept.Next(envelopeHead + size)
		if err := s.message(envelope[0], envelope[envelopeHead:]); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (s *stream) message(flags byte, message []byte) error {
	if flags&flagEnd != 0 {
		s.ended = true
		var end struct {
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(message, &end); err != nil || end.Error != nil {
			s.fail(fromConnect(end.Error, http.StatusInternalServerError))
		}
		return nil
	}
	kind := contentLines
	if s.raw {
		var content httpbody.HttpBody
		if err := proto.Unmarshal(message, &content); err != nil {
			return err
		}
		kind, message = content.GetContentType(), content.GetData()
	} else {
		message = append(message, '\n')
	}
	if !s.begun {
		s.begun = true
		s.Header().Set("Content-Type", kind)
		s.ResponseWriter.WriteHeader(http.StatusOK)
	}
	_, err := s.ResponseWriter.Write(message)
	return err
}

// fail tells of an error: as a problem while nothing was sent, then as the last line. Bytes have no place for it: there the
// connection is cut, so that nobody takes a part for the whole.
func (s *stream) fail(p Problem) {
	switch {
	case !s.begun:
		s.begun = true
		WriteProblem(s.ResponseWriter, p)
	case s.raw:
		panic(http.ErrAbortHandler)
	default:
		p.RequestID = s.Header().Get(requestIDHeader)
		if line, err := json.Marshal(map[string]Problem{"error": p}); err == nil {
			_, _ = s.ResponseWriter.Write(append(line, '\n')) // a reader who went away needs no answer
		}
	}
}

func (s *stream) close() {
	switch {
	case s.status != 0 && s.status != http.StatusOK:
		WriteProblem(s.ResponseWriter, fromConnect(s.kept.Bytes(), s.status))
	case s.begun && !s.ended:
		panic(http.ErrAbortHandler)
	case !s.begun && s.ended:
		s.Header().Set("Content-Type", contentLines)
		s.ResponseWriter.WriteHeader(http.StatusOK)
	}
}
