package compiler

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	"cuelang.org/go/cue"
)

// fieldsByName maps a struct type of package schema to its fields' indices by their names in CUE.
var fieldsByName sync.Map // reflect.Type -> map[string]int

func structFields(t reflect.Type) map[string]int {
	if m, ok := fieldsByName.Load(t); ok {
		return m.(map[string]int)
	}
	m := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		m[fieldName(t.Field(i))] = i
	}
	fieldsByName.Store(t, m)
	return m
}

// fieldName is the name that a field of package schema has in CUE.
func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// decodeValue fills dst from a value that is valid against the schema. It walks the value once: Value.Decode and repeated
// LookupPath cost several times as much.
func decodeValue(dst reflect.Value, v cue.Value) error {
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		return decodeValue(dst.Elem(), v)
	case reflect.Interface:
		if n, err := v.Int64(); err == nil {
			dst.Set(reflect.ValueOf(int(n)))
			return nil
		}
		s, err := v.String()
		if err == nil {
			dst.Set(reflect.ValueOf(s))
		}
		return err
	case reflect.Struct:
		it, err := v.Fields()
		if err != nil {
			return err
		}
		fields := structFields(dst.Type())
		for it.Next() {
			name := it.Selector().Unquoted()
			i, ok := fields[name]
			if !ok {
				return fmt.Errorf("decode %s: the schema has the field %s and its Go type has not", v.Path(), name)
			}
			if err := decodeValue(dst.Field(i), it.Value()); err != nil {
				return err
			}
		}
	case reflect.Map:
		it, err := v.Fields()
		if err != nil {
			return err
		}
		m := reflect.MakeMap(dst.Type())
		for it.Next() {
			e := reflect.New(dst.Type().Elem()).Elem()
			if err := decodeValue(e, it.Value()); err != nil {
				return err
			}
			m.SetMapIndex(reflect.ValueOf(it.Selector().Unquoted()), e)
		}
		if m.Len() > 0 {
			dst.Set(m)
		}
	case reflect.Slice:
		it, err := v.List()
		if err != nil {
			return err
		}
		for it.Next() {
			e := reflect.New(dst.Type().Elem()).Elem()
			if err := decodeValue(e, it.Value()); err != nil {
				return err
			}
			dst.Set(reflect.Append(dst, e))
		}
	case reflect.String:
		s, err := v.String()
		dst.SetString(s)
		return err
	case reflect.Int:
		n, err := v.Int64()
		dst.SetInt(n)
		return err
	case reflect.Bool:
		b, err := v.Bool()
		dst.SetBool(b)
		return err
	case reflect.Float64:
		f, err := v.Float64()
		dst.SetFloat(f)
		return err
	default:
		return fmt.Errorf("decode %s: no rule for %s", v.Path(), dst.Type())
	}
	return nil
}
