package api

// Telling are the fields that refuse to be null.
var Telling = telling
