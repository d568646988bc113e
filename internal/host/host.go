// Package host holds the handles to one host: its root network namespace, the namespaces of its pods, and the folders
// that plumb keeps.
package host
