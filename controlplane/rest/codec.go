package rest

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Codec is how a call by REST looks between Handler and the services: requests are messages in binary, since Handler has made
// them already; answers are the JSON that the caller gets, made once. An HttpBody stays binary.
type Codec struct{}

const codecName = "chom-rest"

const (
	contentUnary  = "application/" + codecName
	contentStream = "application/connect+" + codecName
)

// Name implements connect.Codec.
func (Codec) Name() string { return codecName }

// Marshal implements connect.Codec.
func (Codec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("a %T is no message", message)
	}
	answer := m.ProtoReflect()
	if bodyField(answer.Descriptor()) != "" {
		return proto.Marshal(answer.Get(answer.Descriptor().Fields().Get(0)).Message().Interface())
	}
	return marshalJSON(m)
}

// Unmarshal implements connect.Codec.
func (Codec) Unmarshal(b []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("a %T is no message", message)
	}
	return proto.Unmarshal(b, m)
}
