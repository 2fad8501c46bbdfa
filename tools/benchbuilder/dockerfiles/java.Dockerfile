FROM maven:3-eclipse-temurin-17 AS build
WORKDIR /app
COPY . .
RUN --mount=type=cache,target=/root/.m2 mvn --batch-mode -DskipTests package

FROM eclipse-temurin:17-jre-jammy
WORKDIR /app
COPY --from=build /app/target/*.jar /jars/
RUN cp "$(ls -S /jars/*.jar | head -1)" app.jar && rm -r /jars
USER 1000
ENTRYPOINT []
CMD ["java", "-XX:MaxRAMPercentage=75", "-jar", "app.jar"]
