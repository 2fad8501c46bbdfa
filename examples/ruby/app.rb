require "sinatra/base"

class App < Sinatra::Base
  get("/") { "Hello from Ruby\n" }
end
