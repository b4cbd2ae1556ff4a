// Package persons says what episodes call the people who change objects, as the fleet file wants it:
// nothing, their names, or pseudonyms.
//
// It promises that a person is named only by the stamp of an admission policy that was in force all the time since,
// and that a pseudonym cannot be found out by trying names: its key never leaves the agent's directory.
// It never looks at drift and never decides who made it: package drift does, with the mark that Persons.Name returns.
//
//	persons.go   the setting, the key and the mark
//	stamp.go     the admission policy
//	keep.go      the loop that keeps it in force, or off
package persons
