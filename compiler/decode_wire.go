package compiler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
)

// The wire form carries a configuration from the child to its parent, and is what the digest is taken of, so it is
// deterministic: structs are their fields that aren't zero, in order, each behind its index plus one, closed by a zero; maps are
// sorted by key. Lengths are varints. There is no version in it, since both ends are one binary.

var errWire = errors.New("decode configuration: the evaluator's answer is damaged")

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendWire appends v, a value of a type of package schema.
func appendWire(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer:
		return appendWire(b, v.Elem())
	case reflect.Interface:
		if s, ok := v.Interface().(string); ok {
			return appendString(append(b, 's'), s)
		}
		return binary.AppendVarint(append(b, 'i'), v.Elem().Int())
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				b = appendWire(append(b, byte(i+1)), f)
			}
		}
		return append(b, 0)
	case reflect.Map:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		if m, ok := v.Interface().(map[string]string); ok {
			for _, k := range slices.Sorted(maps.Keys(m)) {
				b = appendString(appendString(b, k), m[k])
			}
			return b
		}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(x, y reflect.Value) int {
			switch x, y := x.String(), y.String(); {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
		for _, k := range keys {
			b = appendWire(appendString(b, k.String()), v.MapIndex(k))
		}
		return b
	case reflect.Slice:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		for i := range v.Len() {
			b = appendWire(b, v.Index(i))
		}
		return b
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Int:
		return binary.AppendVarint(b, v.Int())
	case reflect.Float64:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Float()))
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	}
	panic(fmt.Sprintf("the schema's Go types hold a %s, which the wire form doesn't know", v.Type()))
}

// wireReader reads the wire form. The first damage found is kept in err, and everything read after it is zero.
// Every string that it reads is a part of b, so that reading allocates none of them.
type wireReader struct {
	b   string
	err error
}

func (r *wireReader) fail() { r.err, r.b = errWire, "" }

// head is the beginning of what is left, long enough for a varint.
func (r *wireReader) head() []byte {
	return append(make([]byte, 0, binary.MaxVarintLen64), r.b[:min(len(r.b), binary.MaxVarintLen64)]...)
}

func (r *wireReader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *wireReader) varint() int64 {
	n, w := binary.Varint(r.head())
	if w <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[w:]
	return n
}

// length reads a number of things of at least one byte each, so that damage can't ask for more memory than was sent.
func (r *wireReader) length() int {
	n, w := binary.Uvarint(r.head())
	if w <= 0 || n > uint64(len(r.b)-w) {
		r.fail()
		return 0
	}
	r.b = r.b[w:]
	return int(n)
}

func (r *wireReader) string() string {
	n := r.length()
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

func (r *wireReader) value(dst reflect.Value) {
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		r.value(dst.Elem())
	case reflect.Interface:
		if r.byte() == 's' {
			dst.Set(reflect.ValueOf(r.string()))
		} else {
			dst.Set(reflect.ValueOf(int(r.varint())))
		}
	case reflect.Struct:
		for c := r.byte(); c != 0; c = r.byte() {
			if int(c) > dst.NumField() {
				r.fail()
				return
			}
			r.value(dst.Field(int(c) - 1))
		}
	case reflect.Map:
		n := r.length()
		if dst.Type().Elem().Kind() == reflect.String {
			m := make(map[string]string, n)
			for range n {
				k := r.string()
				m[k] = r.string()
			}
			dst.Set(reflect.ValueOf(m))
			return
		}
		m := reflect.MakeMapWithSize(dst.Type(), n)
		k, e := reflect.New(dst.Type().Key()).Elem(), reflect.New(dst.Type().Elem()).Elem()
		for range n {
			k.SetString(r.string())
			e.SetZero()
			r.value(e)
			m.SetMapIndex(k, e)
		}
		dst.Set(m)
	case reflect.Slice:
		n := r.length()
		dst.Set(reflect.MakeSlice(dst.Type(), n, n))
		for i := range n {
			r.value(dst.Index(i))
		}
	case reflect.String:
		dst.SetString(r.string())
	case reflect.Int:
		dst.SetInt(r.varint())
	case reflect.Float64:
		if len(r.b) < 8 {
			r.fail()
			return
		}
		dst.SetFloat(math.Float64frombits(binary.LittleEndian.Uint64([]byte(r.b[:8]))))
		r.b = r.b[8:]
	case reflect.Bool:
		dst.SetBool(r.byte() == 1)
	}
}
