require "sinatra/base"

class Hello < Sinatra::Base
  get("/") { "Hello from Ruby\n" }
end
